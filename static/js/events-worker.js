// The SharedWorker that holds the one stream of events of all tabs of a session.

import { EventStream } from "./event-stream.js";

const ports = new Map(); // port -> Set of topics

const stream = new EventStream((message) => {
  for (const [port, topics] of ports) {
    if (message.kind !== "event" || topics.has(message.topic)) {
      port.postMessage(message);
    }
  }
});

self.onconnect = (event) => {
  const port = event.ports[0];
  ports.set(port, new Set());
  port.onmessage = ({ data }) => {
    if (data.kind === "bye") {
      ports.delete(port);
    } else if (data.kind === "subscribe") {
      ports.get(port)?.add(data.topic);
      const place = stream.subscribe(data.topic, data.cursor);
      if (place !== "") {
        port.postMessage({ kind: "place", topic: data.topic, cursor: place });
      }
      port.postMessage({ kind: "connection", connected: stream.wasConnected });
    }
  };
  port.start();
};
