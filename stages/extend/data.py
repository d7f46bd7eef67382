"""Data of the phases of an extension: all documents, mixed with a fraction of long ones.

Each phase goes on in both streams where the run or phase before it stopped, in whole documents: the pieces that were
not read would have no long context. A phase with other long documents than the one before has another stream of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from longcat.pipeline.artifact import Artifact
from longcat.stages.extend.config import ExtendConfig, Phase
from longcat.stages.formats.training_state import TrainingState
from longcat.stages.train.joins.data import JoinedData, Stream, check_fills_a_batch, join_stream


def phase_data(config: ExtendConfig, phase: Phase, tokens: Artifact, before: TrainingState) -> JoinedData:
    """Data of a phase after `before`.

    Raises:
        InputError: the documents do not fill a sequence or a batch, or none is long.
    """
    length, fraction = phase.sequence_length, config.long_document_share
    across = config.objective.loss_across_documents
    everything = Stream.of(tokens, seed=config.seed, across_documents=across)
    main = join_stream(before, everything, length, config.packing, whole=True)
    check_fills_a_batch(main, phase.batch_size)
    if not fraction:
        return JoinedData(main)
    least = phase.min_document_tokens or length
    documents = Stream.of(tokens, seed=config.seed, across_documents=across, min_document_tokens=least, long=True)
    return JoinedData(main, join_stream(before, documents, length, config.packing, whole=True), fraction)


def phases_data(config: ExtendConfig, tokens: Artifact, before: TrainingState) -> Iterator[JoinedData]:
    """Data of all phases, if none leaves out samples; raises as `phase_data`."""
    for phase in config.phases_left:
        data = phase_data(config, phase, tokens, before)
        yield data
        before = data.state_after(before, phase.step_count * phase.batch_size)
