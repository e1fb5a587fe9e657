//! What a `UNet2DConditionModel` is made of, read from its configuration.

use serde_json::{Value, json};

use super::super::config::Config;
use super::super::transformer::Sizes;

/// The most channels of a map.
const CHANNELS: usize = 1 << 13;

/// The network's sizes; lists have a value for each block on the way down.
pub(super) struct Shape {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) channels: Vec<usize>,
    pub(super) layers: Vec<usize>,
    pub(super) groups: usize,
    pub(super) epsilon: f32,
    /// Whether a block looks at the text.
    pub(super) down_sees: Vec<bool>,
    up_sees: Vec<bool>,
    pub(super) middle: bool,
    heads: Vec<usize>,
    /// Layers of a block's transformers, and of those on the way up in their order.
    pub(super) transformers: Vec<usize>,
    up_transformers: Vec<usize>,
    pub(super) text: usize,
    /// Zeros before a map that is halved.
    pub(super) padding: usize,
    pub(super) cosine_first: bool,
    pub(super) shift: f32,
    pub(super) added: Option<Added>,
    pub(super) guidance: Option<usize>,
    pub(super) native: (usize, usize),
}

/// What is told beside the time: the whole text and six sizes.
#[derive(Clone, Copy)]
pub(super) struct Added {
    /// Values of a size.
    pub(super) time: usize,
    /// Values in all.
    pub(super) inputs: usize,
}

impl Shape {
    pub(super) fn read(config: &Config) -> Result<Shape, String> {
        refuse_unknown(config)?;
        let channels = config.list("block_out_channels", CHANNELS)?;
        let blocks = channels.len();
        let sees = |key: &str, sees: &str, blind: &str| -> Result<Vec<bool>, String> {
            let names = config.names(key)?;
            if names.len() != blocks {
                return Err(config.fault(format_args!("{key} has {} blocks, block_out_channels {blocks}", names.len())));
            }
            let one = |name: &String| match name.as_str() {
                name if name == sees => Ok(true),
                name if name == blind => Ok(false),
                other => Err(config.fault(format_args!("{key} has {other:.40?}; known are {sees} and {blind}"))),
            };
            names.iter().map(one).collect()
        };
        // What is called the dimension of a head has always held the number of heads.
        let heads_key =
            if config.get("num_attention_heads").is_some() { "num_attention_heads" } else { "attention_head_dim" };
        let transformers = config.sizes("transformer_layers_per_block", blocks, Some(1), 64)?;
        let up_transformers = match config.get("reverse_transformer_layers_per_block") {
            Some(_) => config.sizes("reverse_transformer_layers_per_block", blocks, None, 64)?,
            None => transformers.iter().rev().copied().collect(),
        };
        let text = config.sizes("cross_attention_dim", blocks, Some(1280), 1 << 14)?;
        if text.iter().any(|width| *width != text[0]) {
            return Err(config.fault("cross_attention_dim differs between blocks"));
        }
        let padding = config.number("downsample_padding", Some(1.0))? as usize;
        if padding > 1 {
            return Err(config.fault(format_args!("downsample_padding is {padding}; known here: 0, 1")));
        }
        let native = config.sizes("sample_size", 2, Some(64), 1 << 12)?;
        Ok(Shape {
            inputs: config.size("in_channels", Some(4), 64)?,
            outputs: config.size("out_channels", Some(4), 64)?,
            layers: config.sizes("layers_per_block", blocks, Some(2), 16)?,
            groups: config.size("norm_num_groups", Some(32), CHANNELS)?,
            epsilon: config.epsilon("norm_eps", 1e-5)?,
            down_sees: sees("down_block_types", "CrossAttnDownBlock2D", "DownBlock2D")?,
            up_sees: sees("up_block_types", "CrossAttnUpBlock2D", "UpBlock2D")?,
            middle: config.text("mid_block_type").is_some() || config.get("mid_block_type").is_none(),
            heads: config.sizes(heads_key, blocks, Some(8), 1 << 10)?,
            transformers,
            up_transformers,
            text: text[0],
            padding,
            cosine_first: config.flag("flip_sin_to_cos", true)?,
            shift: config.number("freq_shift", Some(0.0))? as f32,
            added: added(config)?,
            guidance: config
                .get("time_cond_proj_dim")
                .map(|_| config.size("time_cond_proj_dim", None, 1 << 12))
                .transpose()?,
            native: (native[0], native[1]),
            channels,
        })
    }

    /// The transformers of the block `at` on the way down.
    pub(super) fn attention(&self, at: usize) -> Sizes {
        Sizes {
            channels: self.channels[at],
            heads: self.heads[at],
            layers: self.transformers[at],
            text: self.text,
            groups: self.groups,
        }
    }

    pub(super) fn sizes(&self, at: usize, sees: bool) -> Option<Sizes> {
        sees.then(|| self.attention(at))
    }

    /// The transformers of the block `at` on the way up.
    pub(super) fn up_sizes(&self, at: usize) -> Option<Sizes> {
        let layers = self.up_transformers[at];
        self.up_sees[at].then(|| Sizes { layers, ..self.attention(self.channels.len() - 1 - at) })
    }
}

fn added(config: &Config) -> Result<Option<Added>, String> {
    if config.text("addition_embed_type") != Some("text_time") {
        return Ok(None);
    }
    let time = config.size("addition_time_embed_dim", Some(256), 1 << 12)?;
    let inputs = config.size("projection_class_embeddings_input_dim", None, 1 << 15)?;
    if inputs <= 6 * time {
        let why = format_args!(
            "projection_class_embeddings_input_dim {inputs} has no room for text beside six sizes of {time}"
        );
        return Err(config.fault(why));
    }
    Ok(Some(Added { time, inputs }))
}

/// Settings that would change the result and are not computed here.
fn refuse_unknown(config: &Config) -> Result<(), String> {
    let known: [(&str, Vec<Value>); 17] = [
        ("act_fn", vec![json!("silu"), json!("swish")]),
        ("addition_embed_type", vec![json!("text_time")]),
        ("attention_type", vec![json!("default")]),
        ("center_input_sample", vec![json!(false)]),
        ("class_embed_type", vec![]),
        ("conv_in_kernel", vec![json!(3)]),
        ("conv_out_kernel", vec![json!(3)]),
        ("cross_attention_norm", vec![]),
        ("dual_cross_attention", vec![json!(false)]),
        ("encoder_hid_dim_type", vec![]),
        ("mid_block_scale_factor", vec![json!(1), json!(1.0)]),
        ("mid_block_type", vec![json!("UNetMidBlock2DCrossAttn")]),
        ("num_class_embeds", vec![]),
        ("only_cross_attention", vec![json!(false)]),
        ("resnet_out_scale_factor", vec![json!(1), json!(1.0)]),
        ("resnet_time_scale_shift", vec![json!("default")]),
        ("time_embedding_type", vec![json!("positional")]),
    ];
    known.iter().try_for_each(|(key, known)| config.only(key, known))
}
