"""Mail: addresses, messages, mailboxes, the outgoing queue, and what moves between them."""
