"""A Bento with a model, that says on which node it runs."""

import os
from pathlib import Path

import bentoml


@bentoml.service(traffic={"timeout": 60})
class Shipped:
    """Reads its model."""

    greeting = bentoml.models.BentoModel("greeting:v1")

    @bentoml.api
    def where(self) -> dict[str, str]:
        """Say what the model holds, whose node this is, and where this code came from."""
        text = Path(self.greeting.path, "text.txt").read_text()
        node = os.environ.get("RAY_CANARY_TEST_NODE", "head")
        return {"greeting": text, "node": node, "code": str(Path(__file__).parents[1]), "pid": str(os.getpid())}
