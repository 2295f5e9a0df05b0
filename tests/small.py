"""What small runs of all tasks share: a narrow network, small batches, one device, no events."""


def small_fields(npz):
    """Fields of a run on a small npz set, written down every epoch and every second step.

    Args:
      npz: path of the set.
    """
    return {
        "seeds": (0,),
        "network_width": 0.25,
        "data.name": f"npz:{npz}",
        "evaluation.every_epochs": 1,
        "batch_size": 16,
        "evaluation.batch_size": 16,
        "checkpoint.every_epochs": 1,
        "log.every_steps": 2,
        "log.tensorboard": False,
        "compute.devices": 1,
    }
