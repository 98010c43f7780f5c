"""What a config.json describes."""

from embkeras.encoders.families import architecture_of

SIZES = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def test_groups_of_blocks_that_share_weights():
    """ALBERT calls the layers of each group in turn, the first groups first."""
    config = SIZES | {"model_type": "albert", "embedding_size": 4, "num_hidden_layers": 4, "num_hidden_groups": 2}
    found = architecture_of(config | {"inner_group_num": 2}, "x")
    called = [tuple(part for part in block.split(".") if part.isdigit()) for block in found.blocks]
    first, second = [("0", "0"), ("0", "1")], [("1", "0"), ("1", "1")]
    assert called == first * 2 + second * 2
    assert (found.embedding_width, found.width, found.activation, found.dropout) == (4, 8, "gelu_tanh", 0)


def test_defaults():
    """Settings that a config leaves out are those of its kind."""
    bert = architecture_of(SIZES | {"model_type": "bert", "num_hidden_layers": 2}, "x")
    assert (bert.activation, bert.epsilon, bert.segments, bert.padding_id, bert.positions) == ("gelu", 1e-12, 2, 0, 16)
    roberta = architecture_of(SIZES | {"model_type": "roberta", "num_hidden_layers": 2}, "x")
    assert (roberta.padding_id, roberta.positions, roberta.projected) == (1, 14, False)
