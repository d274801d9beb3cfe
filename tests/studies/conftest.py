import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    # As studies themselves run; with several, sums may differ in the last digits (CHANGELOG).
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
