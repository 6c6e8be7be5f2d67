"""The launcher files, read by Ray's launcher and checked with each cloud's description of its machines."""

import json
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import boto3
import botocore.validate
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config

from w3ray.cluster.plan import plan_resources
from w3ray.recipe import load_recipe

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
CLOUDS = ("aws", "gcp")


@pytest.fixture(params=CLOUDS)
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The file as Ray's launcher sees it, merged with Ray's defaults."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    return prepare_config(yaml.safe_load((CLUSTER / f"{request.param}.yaml").read_text()))


def commands(config: dict[str, Any], which: str) -> str:
    return "\n".join(config[f"{which}_start_ray_commands"])


def test_rays_own_validation(config: dict[str, Any]) -> None:
    validate_config(config)


def test_an_unknown_key_would_be_refused(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(Exception, match="spot"):
        validate_config(config)


def test_nothing_of_rays_defaults_is_run(config: dict[str, Any]) -> None:
    text = json.dumps(config)
    assert "ray-wheels" not in text  # the default installs a nightly Ray
    assert "ray.worker.default" not in text
    assert "0.0.0.0" not in text


def test_only_the_head_loopback_serves_the_dashboard(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in commands(config, "head")


def test_every_process_of_every_node_has_these_settings(config: dict[str, Any]) -> None:
    """They are in the container's environment, so `ray exec` and drain-on-notice get them, too."""
    options = config["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in options
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--env=RAY_worker_niceness=0" in options
    assert "--env=RAY_JOB_STOP_WAIT_TIME_S=120" in options


def test_placement(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["decode"]["resources"]["decode"] == types["decode"]["resources"]["CPU"]
    assert "GPU" not in types["decode"]["resources"]
    assert types["gpu"]["resources"]["GPU"] >= 1
    assert "decode" not in types["gpu"]["resources"]


@pytest.mark.parametrize("recipe", ["quickstart", "tank-state"])
def test_the_smallest_cluster_fits_a_recipe(config: dict[str, Any], recipe: str) -> None:
    """With `min_workers` nodes, neither the plan nor Ray refuses."""
    nodes = [node for node in config["available_node_types"].values() for _ in range(node["min_workers"])]
    for node in config["available_node_types"].values():
        node["max_workers"] = node["min_workers"]
    assert not left_over(config, bundles(recipe, nodes, "resources.decoders=14"))


def test_the_largest_cluster_fits_four_workers_and_many_decoders(config: dict[str, Any]) -> None:
    nodes = [node for node in config["available_node_types"].values() for _ in range(node["max_workers"])]
    assert not left_over(config, bundles("tank-state", nodes, "resources.workers=4", "resources.decoders=300"))


def test_more_than_the_largest_cluster_is_not_placed(config: dict[str, Any]) -> None:
    assert left_over(config, [{"GPU": 1.0}] * 5)


def bundles(name: str, nodes: list[dict[str, Any]], *overrides: str) -> list[dict[str, float]]:
    """The resources that the recipe's processes request from Ray on a cluster of these nodes."""
    resources = load_recipe(name, list(overrides)).resources
    plan = plan_resources(
        nodes=[node["resources"] for node in nodes],
        workers=resources.workers_range,
        use_gpu=True,
        decoders=resources.decoders,
        cpus_per_worker=resources.cpus_per_worker,
        decoder_resources={"decode": 1.0},
    )
    return [plan.worker_bundle()] * plan.workers + [plan.decoder_bundle()] * plan.decoders


def left_over(config: dict[str, Any], demands: list[dict[str, float]]) -> list[dict[str, float]]:
    """The part of `demands` that Ray's autoscaler cannot place with the maximum number of nodes."""
    _, left = get_nodes_for(
        config["available_node_types"],
        {},
        config["head_node_type"],
        config["max_workers"],
        demands,
        utilization_scorer=lambda node, demand, node_type, **rest: _default_utilization_scorer(
            node, demand, node_type, node_availability_summary=None
        ),
    )
    return left


class TestAws:
    def test_every_machine_is_a_request_that_ec2_knows(self) -> None:
        config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
        ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
        request = ec2.meta.service_model.operation_model("RunInstances").input_shape
        for node in config["available_node_types"].values():
            report = botocore.validate.ParamValidator().validate(
                {**node["node_config"], "MinCount": 1, "MaxCount": 1}, request
            )
            assert not report.has_errors(), report.generate_report()

    def test_decoding_alone_is_on_spot(self) -> None:
        types = yaml.safe_load((CLUSTER / "aws.yaml").read_text())["available_node_types"]
        spot = [name for name, node in types.items() if "InstanceMarketOptions" in node["node_config"]]
        assert spot == ["decode"]
        assert types["decode"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"

    @pytest.mark.slow
    def test_rays_launcher_makes_the_network_and_the_machines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With moto's EC2 and IAM: the network that README.md describes, and a machine of each kind."""
        for name, value in {
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
        raw = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
        with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
            ec2 = boto3.client("ec2", region_name=raw["provider"]["region"])
            iam = boto3.client("iam")
            iam.create_instance_profile(InstanceProfileName="w3ray-node")
            image = ec2.describe_images()["Images"][0]["ImageId"]
            for node in raw["available_node_types"].values():
                node["node_config"]["ImageId"] = image
            config = bootstrap_aws(prepare_config(raw))
            (group,) = ec2.describe_security_groups(GroupNames=["w3ray"])["SecurityGroups"]
            inside, ssh = group["IpPermissions"]
            assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [group["GroupId"]]
            assert not inside["IpRanges"]
            assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
            provider = AWSNodeProvider(config["provider"], config["cluster_name"])
            for name, node in config["available_node_types"].items():
                tags = {"ray-node-kind": name, "ray-launch-config": "0", "ray-user-node-type": name}
                provider.create_node(node["node_config"], tags, 1)
            machines = [
                machine
                for reservation in ec2.describe_instances()["Reservations"]
                for machine in reservation["Instances"]
            ]
            kinds = {
                next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"): machine
                for machine in machines
            }
            assert {name: machine["InstanceType"] for name, machine in kinds.items()} == {
                "head": "m7i.xlarge",
                "decode": "c7i.4xlarge",
                "gpu": "g6.4xlarge",
            }
            assert [name for name, machine in kinds.items() if machine.get("InstanceLifecycle") == "spot"] == ["decode"]


class TestGcp:
    def test_every_machine_is_a_request_that_compute_engine_knows(self) -> None:
        config = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())
        documents = package_files("googleapiclient") / "discovery_cache" / "documents"
        schemas = json.loads((documents / "compute.v1.json").read_text())["schemas"]
        for name, node in config["available_node_types"].items():
            assert not list(unknown(node["node_config"], schemas["Instance"], schemas, name))

    def test_decoding_alone_is_on_spot(self) -> None:
        types = yaml.safe_load((CLUSTER / "gcp.yaml").read_text())["available_node_types"]
        models = {
            name: node["node_config"].get("scheduling", {}).get("provisioningModel") for name, node in types.items()
        }
        assert models == {"head": None, "decode": "SPOT", "gpu": None}


def unknown(value: Any, schema: dict[str, Any], schemas: dict[str, Any], place: str) -> Any:
    """Each part of `value` that Google's API description does not have there, or has with another type."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, dict):
        if schema.get("type") != "object":
            yield f"{place}: is an object, not {schema.get('type')}"
            return
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if inner is None:
                yield f"{place}.{key}"
            else:
                yield from unknown(item, inner, schemas, f"{place}.{key}")
    elif isinstance(value, list):
        if schema.get("type") != "array":
            yield f"{place}: is a list, not {schema.get('type')}"
            return
        for item in value:
            yield from unknown(item, schema["items"], schemas, place)
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value}"
