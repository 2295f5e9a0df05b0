"""Fields that small runs of all tasks share: narrow network, small batches, one device."""


def small_fields(npz):
    """Returns the fields of a run on a small npz set.

    The run is evaluated and saved every epoch, logs every second step, and writes no TensorBoard
    events.

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
