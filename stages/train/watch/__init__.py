"""Watching a run: speed and memory, the run log, TensorBoard, trackers, profiler.

Nothing here touches what is learnt, and nothing here goes into the artifact: all of it depends on the clock. A run has
one `stages.train.watch.watch.Watch`, in the process that writes metrics.jsonl:

    with Watch(options, watched, context.log_path, context.logger) as watch:
        watch.resume(step)                        # the last step that is done, as metrics.jsonl numbers them
        ...
        bar.set(**watch.step(record, seconds))    # the line of metrics.jsonl, and what the step took
"""
