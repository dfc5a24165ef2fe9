"""Beam runners of this house's own: one that works, and ones that cannot."""

from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

seen: list = []


class Recorder(PipelineRunner):
    """Keeps the options it is given, and runs the pipeline in this process."""

    def run_pipeline(self, pipeline, options):
        seen.append(options)
        return FnApiRunner().run_pipeline(pipeline, options)


class NoServer(PipelineRunner):
    """As where the program that it starts is not installed."""

    def run_pipeline(self, pipeline, options):
        raise FileNotFoundError(2, "No such file or directory", "java\nof mine")


class FlinkRunner(NoServer):
    """The same under a name that is known."""


class Picky(PipelineRunner):
    """Refuses its options."""

    def run_pipeline(self, pipeline, options):
        raise ValueError(f"no job endpoint in {options.view_as(PortableOptions).job_endpoint}")
