import pytest

from keras_mnasnet.cli.main import main


@pytest.fixture
def mnasnet(capfd):
    """Runs a command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        return status, *capfd.readouterr()

    return run
