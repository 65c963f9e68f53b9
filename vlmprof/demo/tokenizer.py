"""The demo model's tokenizer: one token for each word of `shapes_qa`, single characters for everything else.

WordPiece, because decoding joins the pieces of a word again: "742" is three tokens (7 ##4 ##2) and decodes to "742". So
a number takes one output token per digit, as with a large model, and any text can be tokenized, even if the model was
not trained on it.
"""

import string
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlmprof.tasks._shapes.questions import CODE_WORDS
from vlmprof.tasks._shapes.scenes import COLOURS, SHAPES, SIZES

PAD: Final = "<|padding|>"
# The same token marks the beginning and the end of a text, as in MolmoE.
BOS_EOS: Final = "<|endoftext|>"
UNKNOWN: Final = "<|unknown|>"
IMAGE_TOKENS: Final = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
SPECIAL: Final = (PAD, BOS_EOS, UNKNOWN, *IMAGE_TOKENS)
_WORDS: Final = (
    *("user:", "assistant:", "what", "colour", "is", "the", "how", "many", "are", "there", "where", "left", "right"),
    *("top", "bottom", "of", "above", "larger", "than", "yes", "no", "number", "written", "code", "crosses"),
)


def vocabulary() -> dict[str, int]:
    """Token -> id; special tokens first, in the order of `SPECIAL`."""
    plurals = [f"{kind}s" for kind in SHAPES if kind != "cross"]
    characters = string.digits + string.ascii_lowercase + string.punctuation
    tokens = [*SPECIAL, *_WORDS, *COLOURS, *SHAPES, *plurals, *SIZES, *CODE_WORDS, *characters]
    tokens += [f"##{character}" for character in characters]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer built from the words of the task; nothing is trained or downloaded."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary(), unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,;!]"), behavior="isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_EOS,
        eos_token=BOS_EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=list(IMAGE_TOKENS),
        padding_side="left",
    )
