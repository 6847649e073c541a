"""A predictor pod of the contract `ct/1` without weights: the kit's own server over its fake engine.

`python -m tests.ct_pod --model_name ct …`
"""

from serving.contracts import ct
from serving.predictor import Predictor
from serving.server import serve
from serving.settings import PredictorSettings
from serving.testing import FakeReader


def main() -> None:
    """Entry point."""
    settings = PredictorSettings.from_command_line()
    serve(Predictor(ct, FakeReader(), settings), settings)


if __name__ == "__main__":
    main()
