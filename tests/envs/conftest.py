import pytest

from unilab.envs.mujoco_log import keep_warnings_out_of_files


@pytest.fixture(scope="session", autouse=True)
def no_log_file() -> None:
    """Gymnasium's own environments would leave MUJOCO_LOG.TXT behind."""
    keep_warnings_out_of_files()
