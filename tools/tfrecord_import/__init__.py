"""TFRecord sets as memo_jax's records: `python -m tools.tfrecord_import --help`."""
