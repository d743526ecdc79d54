"""EC2: what belongs to a cluster is known by its tags, so that every step can be done again.

Nothing is remembered on this machine: an interrupted `launch` finds what it has made by the tags
`penncloud-cluster` and `penncloud-machine` and goes on. A machine's request has a token of its own, so that
EC2 itself does not make it twice when the answer was lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import boto3
import msgspec
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from penncloud.platform.errors import ConfigurationError, PennCloudError
from scripts.ec2.shape import Description, Machine, Rule

CLUSTER_TAG: Final = "penncloud-cluster"
MACHINE_TAG: Final = "penncloud-machine"
# The account that publishes Debian's images.
_DEBIAN: Final = "136693071363"
_DEBIAN_NAME: Final = "debian-12-amd64-*"
_ALIVE: Final = ("pending", "running", "stopping", "stopped")
_WAIT: Final = {"Delay": 5, "MaxAttempts": 60}


class CloudRefused(PennCloudError):
    """EC2 said no, or cannot be reached; the text is what it said."""


class Instance(msgspec.Struct, frozen=True):
    """A machine as EC2 knows it; addresses are empty while it has none."""

    id: str
    name: str
    state: str
    zone: str
    private_ip: str
    public_ip: str


class Cloud:
    """The cluster `description` in EC2. `endpoint`: another service than Amazon's, for tests.

    Raises CloudRefused.
    """

    def __init__(
        self,
        description: Description,
        say: Callable[[str], None],
        endpoint: str | None = None,
        wait: dict[str, int] | None = None,
    ) -> None:
        self._description = description
        self._say = say
        self._wait = wait or _WAIT
        self._client: Any = boto3.client(
            "ec2", region_name=description.region, endpoint_url=endpoint
        )

    def _ask(self, operation: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client, operation)(**arguments)
        except (ClientError, BotoCoreError) as error:
            raise CloudRefused(f"{operation}: {error}") from error

    def _wait_for(self, waiter: str, ids: Sequence[str]) -> None:
        try:
            self._client.get_waiter(waiter).wait(InstanceIds=list(ids), WaiterConfig=self._wait)
        except (WaiterError, ClientError, BotoCoreError) as error:
            raise CloudRefused(f"{waiter}: {error}") from error

    # -- what there is ---------------------------------------------------------------------------

    def zones(self) -> list[str]:
        """The availability zones to use, in turn."""
        if self._description.zones:
            return list(self._description.zones)
        found = self._ask(
            "describe_availability_zones", Filters=[{"Name": "state", "Values": ["available"]}]
        )
        return sorted(zone["ZoneName"] for zone in found["AvailabilityZones"])

    def instances(self) -> dict[str, Instance]:
        """The cluster's machines that are there, by name."""
        found: dict[str, Instance] = {}
        arguments: dict[str, Any] = {
            "Filters": [
                {"Name": f"tag:{CLUSTER_TAG}", "Values": [self._description.name]},
                {"Name": "instance-state-name", "Values": list(_ALIVE)},
            ]
        }
        while True:
            page = self._ask("describe_instances", **arguments)
            for reservation in page["Reservations"]:
                for each in reservation["Instances"]:
                    instance = _instance(each)
                    found[instance.name] = instance
            if not page.get("NextToken"):
                return found
            arguments["NextToken"] = page["NextToken"]

    def _vpc(self) -> str:
        if self._description.vpc:
            return self._description.vpc
        found = self._ask("describe_vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
        if not found["Vpcs"]:
            raise ConfigurationError(
                f"{self._description.region} has no default VPC: name one as `vpc`"
            )
        return str(found["Vpcs"][0]["VpcId"])

    def _subnets(self, vpc: str) -> dict[str, str]:
        """A subnet of each zone."""
        found = self._ask("describe_subnets", Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        subnets: dict[str, str] = {}
        for subnet in sorted(found["Subnets"], key=lambda each: str(each["SubnetId"])):
            subnets.setdefault(subnet["AvailabilityZone"], subnet["SubnetId"])
        return subnets

    def _image(self) -> str:
        if self._description.image:
            return self._description.image
        found = self._ask(
            "describe_images",
            Owners=[_DEBIAN],
            Filters=[{"Name": "name", "Values": [_DEBIAN_NAME]}],
        )
        images = sorted(found["Images"], key=lambda each: str(each["CreationDate"]))
        if not images:
            raise ConfigurationError("there is no Debian 12 image in this region: name an `image`")
        return str(images[-1]["ImageId"])

    # -- making ----------------------------------------------------------------------------------

    def launch(self, wanted: Sequence[Machine], rules: Sequence[Rule], user_data: str) -> None:
        """Let every machine be there and run; what is there already stays as it is."""
        vpc = self._vpc()
        group = self._ensure_group(vpc, rules)
        there = self.instances()
        missing = [machine for machine in wanted if machine.name not in there]
        if missing:
            image, zones, subnets = self._image(), self.zones(), self._subnets(vpc)
            for machine in missing:
                zone = zones[(machine.number - 1) % len(zones)]
                if zone not in subnets:
                    raise ConfigurationError(f"{vpc} has no subnet in {zone}")
                self._run(machine, image, subnets[zone], group, user_data)
        stopped = [each.id for each in there.values() if each.state in ("stopped", "stopping")]
        if stopped:
            self._wait_for("instance_stopped", stopped)
            self._ask("start_instances", InstanceIds=stopped)
        names = {machine.name for machine in wanted}
        ids = [each.id for each in self.instances().values() if each.name in names]
        self._wait_for("instance_running", ids)
        self._say(f"{len(ids)} machines run")

    def _ensure_group(self, vpc: str, rules: Sequence[Rule]) -> str:
        name = self._description.name
        found = self._find_group(vpc)
        if found is None:
            tags = [{"Key": CLUSTER_TAG, "Value": name}]
            made = self._ask(
                "create_security_group",
                GroupName=name,
                Description=f"PennCloud cluster {name}",
                VpcId=vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
            )
            found = {"GroupId": made["GroupId"], "IpPermissions": []}
            self._say(f"security group {name}: {made['GroupId']}")
        group = str(found["GroupId"])
        wanted = {(rule.first, rule.last, rule.source or group) for rule in rules}
        there = set(_permissions(found["IpPermissions"]))
        if wanted - there:
            self._ask(
                "authorize_security_group_ingress",
                GroupId=group,
                IpPermissions=[_permission(*each) for each in sorted(wanted - there)],
            )
        if there - wanted:
            self._ask(
                "revoke_security_group_ingress",
                GroupId=group,
                IpPermissions=[_permission(*each) for each in sorted(there - wanted)],
            )
        return group

    def _find_group(self, vpc: str | None = None) -> Any:
        filters = [{"Name": f"tag:{CLUSTER_TAG}", "Values": [self._description.name]}]
        if vpc is not None:
            filters.append({"Name": "vpc-id", "Values": [vpc]})
        found = self._ask("describe_security_groups", Filters=filters)["SecurityGroups"]
        return found[0] if found else None

    def _run(self, machine: Machine, image: str, subnet: str, group: str, user_data: str) -> None:
        tags = {
            "Name": machine.name,
            CLUSTER_TAG: self._description.name,
            MACHINE_TAG: machine.name,
        }
        made = self._ask(
            "run_instances",
            ImageId=image,
            InstanceType=machine.type,
            KeyName=self._description.key_name,
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            SecurityGroupIds=[group],
            UserData=user_data,
            ClientToken=self._token(machine, group),
            BlockDeviceMappings=[
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {
                        "VolumeSize": machine.disk_gb,
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            TagSpecifications=[
                {
                    "ResourceType": kind,
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
                for kind in ("instance", "volume")
            ],
        )
        self._say(f"{machine.name}: {made['Instances'][0]['InstanceId']}")

    def _token(self, machine: Machine, group: str) -> str:
        """The same for the same machine of the same life of the cluster, which its group stands for."""
        text = f"{self._description.name}/{machine.name}/{machine.type}/{group}"
        return hashlib.sha256(text.encode()).hexdigest()[:64]

    # -- unmaking --------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Terminate every machine with its disk, and remove the security group. Nothing else is touched."""
        ids = [each.id for each in self.instances().values()]
        if ids:
            self._ask("terminate_instances", InstanceIds=ids)
            self._wait_for("instance_terminated", ids)
            self._say(f"{len(ids)} machines are gone")
        group = self._find_group()
        if group is not None:
            self._ask("delete_security_group", GroupId=group["GroupId"])
            self._say(f"security group {group['GroupId']} is gone")


def _instance(each: Any) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
    return Instance(
        id=each["InstanceId"],
        name=tags.get(MACHINE_TAG, ""),
        state=each["State"]["Name"],
        zone=each.get("Placement", {}).get("AvailabilityZone", ""),
        private_ip=each.get("PrivateIpAddress", ""),
        public_ip=each.get("PublicIpAddress", ""),
    )


def _permission(first: int, last: int, source: str) -> dict[str, Any]:
    found: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": first, "ToPort": last}
    if source.startswith("sg-"):
        return {**found, "UserIdGroupPairs": [{"GroupId": source}]}
    kind, key = ("Ipv6Ranges", "CidrIpv6") if ":" in source else ("IpRanges", "CidrIp")
    return {**found, kind: [{key: source}]}


def _permissions(found: Sequence[Any]) -> list[tuple[int, int, str]]:
    """The other way round: what a group has, one tuple for each source."""
    rules = []
    for each in found:
        ports = int(each.get("FromPort", 0)), int(each.get("ToPort", 65535))
        sources = [pair["GroupId"] for pair in each.get("UserIdGroupPairs", [])]
        sources += [entry["CidrIp"] for entry in each.get("IpRanges", [])]
        sources += [entry["CidrIpv6"] for entry in each.get("Ipv6Ranges", [])]
        rules += [(*ports, source) for source in sources]
    return rules
