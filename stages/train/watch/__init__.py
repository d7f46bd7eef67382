"""Monitoring of a run: speed and memory, run log, TensorBoard, trackers, profiler.

Nothing here affects the result or enters the artifact, since all of it depends on the clock. A run has one
`stages.train.watch.watch.Watch`, in the process that writes metrics.jsonl:

    with Watch(options, watched, context.log_path, context.logger) as watch:
        watch.resume(step)                        # the last finished step, numbered as in metrics.jsonl
        ...
        bar.set(**watch.step(record, seconds))    # the line of metrics.jsonl, and the duration of the step
"""
