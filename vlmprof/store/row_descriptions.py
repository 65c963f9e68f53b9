"""What each column of ``samples`` and ``timings`` means, in words; ``store.descriptions`` has those of ``trials``."""

from __future__ import annotations

from collections.abc import Mapping

PREDICTED_STAGES = {
    "preprocess": "preprocessing",
    "transfer": "the transfer to the device",
    "vision": "the vision encoder",
    "connector": "the connector; null where the model does not separate it",
    "prefill": "the prefill",
    "decode": "all decode steps together",
}
SAMPLES: Mapping[str, str] = {
    "trial": "Id of the trial; joins `trials` and `timings`.",
    "sample": "The dataset's own id of the question. Configurations are compared in pairs by this id.",
    "cluster": "Questions about the same image share a cluster: they are not independent observations.",
    "question_type": "Question type, as labelled by the task.",
    "question": "The question, as the dataset has it.",
    "references": "The reference answers, as the metric was given them; for a multiple-choice question a letter.",
    "picture": "Where the picture lies: a file, or a file and the row in it; null for one that the task draws.",
    "picture_width": "Width of the picture, before any resizing; null where it could not be read.",
    "picture_height": "Height of the picture, before any resizing; null where it could not be read.",
    "prediction": "The answer as text; null where the sample failed.",
    "score": (
        "By the task's metric, 0 to 1. For CIDEr-D the score of this image, 0 to 10; for POPE 1 if the answer is "
        "right, else 0. Null where the sample failed."
    ),
    "parsed": "Whether the metric could parse the answer.",
    "end": "`eos`: the model ended the answer. `cap`: the answer was cut at the cap. `failed`: there is no answer.",
    "tokens_generated": "Number of tokens of the answer, an end-of-sequence token included.",
    "tiling_rows": "Rows of crops of the high-resolution view.",
    "tiling_cols": "Columns of crops of the high-resolution view.",
    "capped": "Whether a cap reduced the tiling that the image would have without one.",
    "crops": "Crops through the vision encoder, the global view included.",
    "vision_tokens": "Vision features that reached the language model.",
    "prompt_tokens": (
        "Length of the prompt in the language model, image tokens and markers included, padding excluded."
    ),
    "effective_key": (
        "Equal for configurations that did the same work on this sample, even if they requested different values."
    ),
    "batch_size": "Size of the batch in which this sample was answered; 0 if its image could not be read.",
    "answered_by": "The trial that generated the answer, where that is another one that did the same work on it.",
    "latency_ms_predicted": (
        "Latency of this prompt at batch 1 and the timed answer length, predicted from the timed requests; null "
        "where fewer than six sizes were timed, or batches."
    ),
    "latency_ms_predicted_low": "Lower end of its 95 % prediction interval.",
    "latency_ms_predicted_high": "Upper end of its 95 % prediction interval.",
    **{f"{stage}_ms_predicted": f"What of it is {what}." for stage, what in PREDICTED_STAGES.items()},
    "error": "Why the sample failed; null otherwise.",
}
TIMINGS: Mapping[str, str] = {
    "trial": "Id of the trial.",
    "setting": "Number of the batch size and length in the job's order, from 0; null in rows from before lists.",
    "session": "Number of the session, from 0; the model is loaded again for each.",
    "block": "Number of the block in the session, from 0.",
    "canary": "Whether this is the canary and not the configuration.",
    "repeat": "Number of the repeat in the session, from 0; null for a canary. Warm-up repeats are not kept.",
    "request": "Number of the fixed request in the repeat, from 0. One request is one batch.",
    "batch_size": "Prompts in this request.",
    "output_tokens": "Tokens generated for each prompt; exactly this many, end-of-sequence is ignored.",
    "preprocess_ms": (
        "Resizing, tiling, tokenising and padding, on the host or in part on the device. The image file was "
        "decoded before."
    ),
    "transfer_ms": "Transfer of the inputs to the device; close to 0 on a CPU.",
    "vision_ms": "Vision encoder; includes the connector if the two cannot be separated.",
    "connector_ms": (
        "From the encoder's output to the input of the language model; null if it is part of `vision_ms`."
    ),
    "prefill_ms": "First forward pass of the language model, until the first token is on the host.",
    "decode_ms": "All further tokens; without detokenisation.",
    "step_ms": "Gap before each token after the first.",
    "end_to_end_ms": "The whole generation, by two clock readings of its own; not the sum of the stages.",
    "disturbed": "What disturbed its block; null if nothing did. Disturbed blocks are kept in this table.",
}
