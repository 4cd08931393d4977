"""States in the host library's cache; what holds for every family is in tests/contracts/test_generation.py."""

import copy
import pickle
from typing import Any

import pytest
import torch
from families import NUM_LAYERS, tiny_model
from memory import LargestTensor
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

import mimicry
from mimicry.conversion.cache import RecurrentLayer
from mimicry.conversion.lora import LoRASettings, add_lora

RECURRENT = [RecurrentLayer] * NUM_LAYERS


def model() -> PreTrainedModel:
    return tiny_model("llama").double()


def tokens(number: int = 12, rows: int = 2) -> Tensor:
    return torch.randint(5, 99, (rows, number))


def kinds(cache: Cache) -> list[type]:
    return [type(layer) for layer in cache.layers]


def at_once(student: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return student(ids, use_cache=False).logits


def in_steps(student: PreTrainedModel, ids: Tensor, prompt: int, cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """Logits of a prompt and of one token after another, in plain forward calls."""
    out = student(ids[:, :prompt], past_key_values=cache, use_cache=True)
    logits = [out.logits]
    for token in range(prompt, ids.shape[1]):
        out = student(ids[:, token : token + 1], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, dim=1), out.past_key_values


@pytest.mark.parametrize("attn", ["hedgehog", "window_hedgehog", "sliding_window"])
@pytest.mark.parametrize("mine", [None, DynamicCache], ids=["host's cache", "caller's cache"])
def test_plain_forward_calls_keep_a_state_too(attn: str, mine: type | None) -> None:
    student, ids = mimicry.convert(model(), attn), tokens(40)
    given = None if mine is None else mine()
    with torch.no_grad():
        logits, cache = in_steps(student, ids, prompt=30, cache=given)
    assert kinds(cache) == RECURRENT
    assert given is None or cache is given
    torch.testing.assert_close(logits, at_once(student, ids), rtol=0, atol=1e-12)


def test_the_prompt_runs_as_it_does_without_a_cache() -> None:
    student, ids = mimicry.convert(tiny_model("llama"), "hedgehog"), tokens()
    with torch.no_grad():
        assert torch.equal(student(ids, use_cache=True).logits, at_once(student, ids))


def test_where_gradients_are_recorded_keys_and_values_are_kept_and_the_gradients_are_right() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    gradients = []
    for cached in (True, False):
        student.zero_grad()
        out = student(ids, labels=ids, use_cache=cached)
        out.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters()})
        if cached:
            assert kinds(out.past_key_values) == [DynamicLayer] * NUM_LAYERS
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_cache_of_keys_and_values_goes_on_exactly() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens(20)
    cache = student(ids[:, :12]).past_key_values
    with torch.no_grad():
        logits, cache = in_steps(student, ids[:, 12:], prompt=3, cache=cache)
    assert kinds(cache) == [DynamicLayer] * NUM_LAYERS
    torch.testing.assert_close(logits, at_once(student, ids)[:, 12:], rtol=0, atol=1e-12)


def test_gradients_through_a_state_are_refused() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    with torch.no_grad():
        cache = student(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"past_key_values holds states, which record no gradients; use torch.no_grad"):
        student(ids, past_key_values=cache)


@pytest.mark.parametrize("attn", ["hedgehog", "window_hedgehog"])
def test_memory_is_the_same_after_1k_and_after_32k_tokens(attn: str) -> None:
    student = mimicry.convert(tiny_model("llama", max_position_embeddings=32768).float(), attn)
    sizes, cache, first = {}, DynamicCache(), DynamicCache()
    with torch.inference_mode():
        # The first token after a prompt joins the matrices of both maps, once and for all.
        for _ in range(2):
            student(tokens(1, rows=1), past_key_values=first)
        for length in range(1024, 32768 + 1, 1024):
            student(tokens(1024, rows=1), past_key_values=cache, logits_to_keep=1)
            if length in (1024, 4096, 32768):
                again = copy.deepcopy(cache)
                with LargestTensor() as watched:
                    student(tokens(1, rows=1), past_key_values=again)
                assert cache.get_seq_length() == length
                sizes[length] = (sum(layer.nbytes for layer in cache.layers), watched.largest, watched.total)
    assert sizes[1024] == sizes[4096] == sizes[32768]
    # 4 heads of 16 features and 8 values: the state is what it claims to be.
    if attn == "hedgehog":
        assert sizes[32768][0] == NUM_LAYERS * 4 * (16 * 8 + 16) * 4


def test_softmax_by_the_same_measure_grows() -> None:
    student, largest = mimicry.convert(tiny_model("llama", max_position_embeddings=4096), "softmax"), []
    with torch.inference_mode():
        for length in (1024, 4096):
            cache = student(tokens(length, rows=1), use_cache=True).past_key_values
            with LargestTensor() as watched:
                student(tokens(1, rows=1), past_key_values=cache)
            largest.append(watched.largest)
    assert largest[1] > 3 * largest[0]


@pytest.mark.parametrize("attn", ["hedgehog", "window_hedgehog"])
def test_a_bfloat16_model_keeps_its_sums_in_float32(attn: str) -> None:
    student = mimicry.convert(tiny_model("llama").bfloat16(), attn)
    out = student.generate(tokens(), max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    for layer in out.past_key_values.layers:
        state = layer.state if attn == "hedgehog" else layer.state.beyond
        assert state.kv.dtype == state.k.dtype == torch.float32


def test_copies_and_pickles_generate_alike() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    assert isinstance(student, type(model()))

    def generated(of: PreTrainedModel) -> Any:
        return of.generate(ids, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)

    expected = generated(student)
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        found = generated(other)
        assert kinds(found.past_key_values) == RECURRENT
        assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "wrapped"])
def test_adapters_change_nothing_about_the_cache(wrapped: bool) -> None:
    from peft import LoraConfig, get_peft_model

    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    if wrapped:
        config = LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        student = get_peft_model(student, config).eval()
    else:
        student = add_lora(student, LoRASettings(r=2))
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    out = student.generate(input_ids=ids, **options)
    assert kinds(out.past_key_values) == RECURRENT
    assert torch.equal(out.sequences, student.generate(input_ids=ids, use_cache=False, **options).sequences)
    with torch.no_grad():
        logits, cache = in_steps(student, ids, prompt=8)
    assert kinds(cache) == RECURRENT
    torch.testing.assert_close(logits, at_once(student, ids), rtol=0, atol=1e-12)


def test_a_model_converted_twice_keeps_one_hook_and_converted_back_keeps_keys_again() -> None:
    student = mimicry.convert(mimicry.convert(model(), "elu"), "hedgehog")
    assert all(len(layer.self_attn._forward_pre_hooks) == 1 for layer in student.model.layers)
    back, ids = mimicry.canonicalise(student), tokens()
    out = back.generate(ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert kinds(out.past_key_values) == [DynamicLayer] * NUM_LAYERS
    assert torch.equal(out.sequences, model_like(back).generate(ids, max_new_tokens=4, do_sample=False))
    # Assisted decoding needs keys that can be dropped again: softmax has them.
    draft = {"assistant_model": copy.deepcopy(back), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(back.generate(ids[:1], **draft), out.sequences[:1])


def model_like(student: PreTrainedModel) -> PreTrainedModel:
    """The same weights with the host's own attention."""
    plain = copy.deepcopy(student)
    plain.set_attn_implementation("eager")
    return plain


def test_the_hosts_own_attention_in_a_converted_model_sees_all_keys() -> None:
    teacher, ids = model(), tokens()
    plain = model_like(mimicry.convert(teacher, "hedgehog"))
    teacher.set_attn_implementation("eager")
    out = plain.generate(ids, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)
    assert kinds(out.past_key_values) == [DynamicLayer] * NUM_LAYERS
    assert torch.equal(out.sequences, teacher.generate(ids, max_new_tokens=6, do_sample=False))


def test_a_copied_cache_starts_two_continuations() -> None:
    student, ids, others = mimicry.convert(model(), "hedgehog"), tokens(), tokens(5)
    with torch.no_grad():
        cache = student(ids, use_cache=True).past_key_values
        first = student(others, past_key_values=copy.deepcopy(cache)).logits
        again = student(others, past_key_values=cache).logits
    assert torch.equal(first, again)
    expected = at_once(student, torch.cat([ids, others], dim=1))[:, 12:]
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-12)


def test_generation_goes_on_from_the_cache_of_an_earlier_call() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    options = {"do_sample": False, "return_dict_in_generate": True}
    first = student.generate(ids, max_new_tokens=5, min_new_tokens=5, **options)
    further = torch.cat([first.sequences, tokens(4)], dim=1)
    found = student.generate(
        further, past_key_values=first.past_key_values, max_new_tokens=5, min_new_tokens=5, **options
    )
    assert torch.equal(found.sequences, student.generate(further, max_new_tokens=5, min_new_tokens=5, do_sample=False))


def test_rows_of_a_state_can_be_repeated_chosen_and_cleared() -> None:
    student, ids, new = mimicry.convert(model(), "hedgehog"), tokens(rows=3), tokens(1, rows=1)
    rows = {"batch_repeat_interleave": [0, 0, 1, 1, 2, 2], "batch_select_indices": [2, 0], "reorder_cache": [1, 1, 0]}
    arguments = {"batch_repeat_interleave": 2, "batch_select_indices": torch.tensor([2, 0])}
    for change, chosen in rows.items():
        with torch.no_grad():
            cache = student(ids, use_cache=True).past_key_values
            getattr(cache, change)(arguments.get(change, torch.tensor(chosen)))
            logits = student(new.expand(len(chosen), 1), past_key_values=cache).logits
        texts = torch.cat([ids[chosen], new.expand(len(chosen), 1)], dim=1)
        torch.testing.assert_close(logits[:, 0], at_once(student, texts)[:, -1], rtol=0, atol=1e-12)
    cache.reset()
    assert cache.get_seq_length() == 0
    with torch.no_grad():
        assert torch.equal(student(ids, past_key_values=cache).logits, at_once(student, ids))


def test_decoding_that_takes_tokens_back_is_refused_in_a_line() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens(rows=1)
    refusal = r"^LlamaForCausalLM only supports \['greedy_search', .*got generation mode '.*assisted_generation"
    with pytest.raises(ValueError, match=f"(?i){refusal}"):
        student.generate(ids, assistant_model=tiny_model("llama"), max_new_tokens=4)
    with pytest.raises(ValueError, match=r"(?i)^Contrastive Search requires `trust_remote_code=True`"):
        student.generate(ids, penalty_alpha=0.6, top_k=4, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"(?i)only supports .* got generation mode '.*contrastive_search"):
        student.generate(ids, penalty_alpha=0.6, top_k=4, max_new_tokens=4, trust_remote_code=True)
    # As the draft of another model it is asked to take tokens back in its cache.
    with pytest.raises(
        ValueError, match=r"past_key_values cannot forget [0-9]+ tokens: a recurrent state does not go back"
    ):
        model().generate(ids, assistant_model=student, max_new_tokens=12, do_sample=False)


def test_nothing_is_cropped_in_silence() -> None:
    layer = RecurrentLayer()
    layer.crop(0)
    with pytest.raises(ValueError, match="past_key_values cannot forget 2 tokens"):
        layer.crop(-2)


def test_caches_that_keep_something_else_are_refused() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    with pytest.raises(
        ValueError, match=r"past_key_values must be a DynamicCache.*; layer 0 of this one is a StaticLayer"
    ):
        student.generate(ids, cache_implementation="static", max_new_tokens=4)


def test_states_are_read_by_converted_attention_only() -> None:
    teacher, ids = model(), tokens()
    with torch.no_grad():
        cache = mimicry.convert(teacher, "hedgehog")(ids, use_cache=True).past_key_values
        with pytest.raises(
            ValueError, match="past_key_values holds states of converted layers, which another attention"
        ):
            teacher(ids[:, :1], past_key_values=cache)
        with pytest.raises(ValueError, match="past_key_values holds a state in layer 0, SoftmaxAttention has none"):
            mimicry.canonicalise(teacher)(ids[:, :1], past_key_values=cache)
        with pytest.raises(ValueError, match=r"state.kv must be"):
            mimicry.convert(teacher, "elu")(ids[:, :1], past_key_values=cache)


def test_a_cache_whose_last_call_failed_is_not_used_again() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    handle = student.model.layers[1].self_attn.k_proj.register_forward_hook(lambda *_: 1 / 0)
    cache = DynamicCache()
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError):
            student(ids, past_key_values=cache)
        handle.remove()
        with pytest.raises(ValueError, match=r"past_key_values must be a new cache: an earlier call .* did not finish"):
            student(ids, past_key_values=cache)


def test_a_text_longer_than_the_attention_can_honour_is_refused() -> None:
    student = mimicry.convert(tiny_model("llama", max_position_embeddings=600), "cosformer")
    with torch.no_grad():
        cache = student(tokens(512, rows=1), use_cache=True).past_key_values
        assert cache.get_max_length() == 512
        with pytest.raises(ValueError, match="tokens must be <= max_length = 512, got 512"):
            student(tokens(1, rows=1), past_key_values=cache)


def test_a_host_that_would_keep_a_window_of_keys_keeps_them_all() -> None:
    model = tiny_model("mistral", sliding_window=64, max_position_embeddings=64).double()
    student, ids = mimicry.convert(model, "hedgehog", layers="1"), tokens(64)
    assert [layer.is_sliding for layer in DynamicCache(config=student.config).layers] == [True] * NUM_LAYERS
    with torch.no_grad():
        logits, cache = in_steps(student, ids, prompt=50)
    assert kinds(cache) == [DynamicLayer, RecurrentLayer]
    torch.testing.assert_close(logits, at_once(student, ids), rtol=0, atol=1e-12)


def test_beams_may_be_sampled_and_a_generation_config_is_honoured() -> None:
    student, ids = mimicry.convert(model(), "hedgehog"), tokens()
    config = GenerationConfig(num_beams=3, do_sample=True, max_new_tokens=8, prefill_chunk_size=5, pad_token_id=1)
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        config.use_cache, config.prefill_chunk_size = cached, 5 if cached else None
        found.append(student.generate(ids, generation_config=config))
    assert torch.equal(*found)
