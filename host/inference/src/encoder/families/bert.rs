//! BERT (Devlin et al. 2018) and those that differ from it in a few places: RoBERTa (Liu et al. 2019) and XLM-R, which
//! count positions from behind the padding token's, DistilBERT (Sanh et al. 2019), without segments, and Jina's BERT
//! (Günther et al. 2023), with ALiBi and gated feed-forward blocks.

use super::super::config::Keys;
use super::super::description::{Description, FeedIn, HeadKind, Names, Norms, Part, Positions, Qkv};
use super::{HEADS, HIDDEN, INTERMEDIATE, LAYERS, POSITIONS, TYPES, VOCABULARY, alike};

/// The names that BERT's checkpoints use.
const NAMES: Names = Names {
    prefixes: &["", "bert.", "roberta."],
    words: "embeddings.word_embeddings.weight",
    positions: "embeddings.position_embeddings.weight",
    types: "embeddings.token_type_embeddings.weight",
    embedding_norm: Part::biased("embeddings.LayerNorm"),
    layer: ["encoder.layer.", "."],
    qkv: Qkv::Apart([
        Part::biased("attention.self.query"),
        Part::biased("attention.self.key"),
        Part::biased("attention.self.value"),
    ]),
    attention_out: Part::biased("attention.output.dense"),
    attention_norm: Part::biased("attention.output.LayerNorm"),
    feed_in: FeedIn::Plain(Part::biased("intermediate.dense")),
    feed_out: Part::biased("output.dense"),
    out_norm: Part::biased("output.LayerNorm"),
    final_norm: None,
};

pub(super) fn bert(keys: &Keys<'_>) -> Result<Description, String> {
    keys.only("position_embedding_type", &["absolute"])?;
    common(keys, 0)
}

pub(super) fn roberta(keys: &Keys<'_>) -> Result<Description, String> {
    keys.only("position_embedding_type", &["absolute"])?;
    let padding = keys.size_or("pad_token_id", 1, 0, VOCABULARY)?;
    Ok(Description { head: HeadKind::Classifier, ..common(keys, padding + 1)? })
}

pub(super) fn jina(keys: &Keys<'_>) -> Result<Description, String> {
    let mut description = common(keys, 0)?;
    description.activation = match keys.text("feed_forward_type")?.unwrap_or("original") {
        "geglu" => host_kernels::encoder::Activation::Gelu,
        "reglu" => host_kernels::encoder::Activation::Relu,
        "original" => return Ok(Description { positions: Positions::Alibi, ..description }),
        other => return Err(format!("feed_forward_type is {other:.80?}; original, geglu and reglu are known")),
    };
    description.positions = Positions::Alibi;
    let gated = FeedIn::Together { part: Part::new("mlp.gated_layers", false), gate_first: true };
    let (feed_out, out_norm) = (Part::biased("mlp.wo"), Part::biased("mlp.layernorm"));
    Ok(Description { names: Names { feed_in: gated, feed_out, out_norm, ..NAMES }, ..description })
}

fn common(keys: &Keys<'_>, first: usize) -> Result<Description, String> {
    let rows = keys.size(&["max_position_embeddings"], POSITIONS)?;
    let context = rows.checked_sub(first).filter(|context| *context > 0);
    let context = context.ok_or_else(|| format!("max_position_embeddings is {rows}, pad_token_id leaves none"))?;
    Ok(Description {
        vocabulary: keys.size(&["vocab_size"], VOCABULARY)?,
        hidden: keys.size(&["hidden_size"], HIDDEN)?,
        heads: keys.size(&["num_attention_heads"], HEADS)?,
        intermediate: keys.size(&["intermediate_size"], INTERMEDIATE)?,
        context,
        types: keys.size(&["type_vocab_size"], TYPES)?,
        epsilon: keys.epsilon("layer_norm_eps", 1e-12)?,
        positions: Positions::Learned { rows, first },
        norms: Norms::Post,
        activation: keys.activation("hidden_act", "gelu")?,
        ropes: Vec::new(),
        layers: alike(keys.size(&["num_hidden_layers"], LAYERS)?, None),
        names: NAMES,
        head: HeadKind::Pooler,
    })
}

pub(super) fn distilbert(keys: &Keys<'_>) -> Result<Description, String> {
    let rows = keys.size(&["max_position_embeddings"], POSITIONS)?;
    let names = Names {
        prefixes: &["", "distilbert."],
        layer: ["transformer.layer.", "."],
        qkv: Qkv::Apart([
            Part::biased("attention.q_lin"),
            Part::biased("attention.k_lin"),
            Part::biased("attention.v_lin"),
        ]),
        attention_out: Part::biased("attention.out_lin"),
        attention_norm: Part::biased("sa_layer_norm"),
        feed_in: FeedIn::Plain(Part::biased("ffn.lin1")),
        feed_out: Part::biased("ffn.lin2"),
        out_norm: Part::biased("output_layer_norm"),
        ..NAMES
    };
    Ok(Description {
        vocabulary: keys.size(&["vocab_size"], VOCABULARY)?,
        hidden: keys.size(&["dim", "hidden_size"], HIDDEN)?,
        heads: keys.size(&["n_heads", "num_attention_heads"], HEADS)?,
        intermediate: keys.size(&["hidden_dim", "intermediate_size"], INTERMEDIATE)?,
        context: rows,
        types: 0,
        epsilon: 1e-12,
        positions: Positions::Learned { rows, first: 0 },
        norms: Norms::Post,
        activation: keys.activation("activation", "gelu")?,
        ropes: Vec::new(),
        layers: alike(keys.size(&["n_layers", "num_hidden_layers"], LAYERS)?, None),
        names,
        head: HeadKind::PreClassifier,
    })
}
