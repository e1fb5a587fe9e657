//! `config.json` of a VITS checkpoint, checked before anything is sized by it.

use host_kernels::encoder::Activation;
use serde::Deserialize;
use serde_json::Value;

/// The most values that a stage of the decoder makes of a frame; published models make 8192.
const MOST_VALUES: usize = 1 << 16;

/// The shape of a model and how it speaks when nothing else is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) vocabulary: usize,
    pub(crate) text: Text,
    pub(crate) durations: Durations,
    /// Channels of what the decoder makes sound of.
    pub(crate) flow_size: usize,
    pub(crate) flows: usize,
    pub(crate) wave_net: WaveNetShape,
    pub(crate) decoder: Decoder,
    pub(crate) voices: Option<Voices>,
    /// Samples of a second.
    pub(crate) rate: u32,
    /// Larger is faster.
    pub(crate) speaking_rate: f32,
    /// How much chance there is in the sound.
    pub(crate) noise: f32,
    /// How much chance there is in how long each token lasts.
    pub(crate) duration_noise: f32,
}

/// The encoder of texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Text {
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Up to which distance positions have vectors of their own.
    pub(crate) window: usize,
    pub(crate) bias: bool,
    pub(crate) intermediate: usize,
    pub(crate) kernel: usize,
    pub(crate) activation: Activation,
    pub(crate) epsilon: f32,
}

/// How long tokens last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Durations {
    /// A flow from noise.
    Stochastic { kernel: usize, layers: usize, flows: usize, bins: usize, bound: f32 },
    /// Two convolutions.
    Deterministic { kernel: usize, filters: usize },
}

/// The networks within the flow.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WaveNetShape {
    pub(crate) layers: usize,
    pub(crate) kernel: usize,
    /// From one layer to the next the dilation grows by this.
    pub(crate) dilation_rate: usize,
}

/// HiFi-GAN.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decoder {
    /// Channels of the first stage; each halves them.
    pub(crate) channels: usize,
    /// Of each stage: how much longer it makes the signal, and its kernel.
    pub(crate) stages: Vec<(usize, usize)>,
    /// Of each block of a stage: its kernel, and the dilations of its convolutions.
    pub(crate) blocks: Vec<(usize, Vec<usize>)>,
    pub(crate) slope: f32,
}

/// Several voices in one model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Voices {
    pub(crate) count: usize,
    pub(crate) width: usize,
}

/// The keys, with the values of files that leave them out.
#[derive(Deserialize)]
#[serde(default)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    window_size: usize,
    use_bias: bool,
    ffn_dim: usize,
    ffn_kernel_size: usize,
    flow_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    use_stochastic_duration_prediction: bool,
    num_speakers: usize,
    speaker_embedding_size: usize,
    upsample_initial_channel: usize,
    upsample_rates: Vec<usize>,
    upsample_kernel_sizes: Vec<usize>,
    resblock_kernel_sizes: Vec<usize>,
    resblock_dilation_sizes: Vec<Vec<usize>>,
    leaky_relu_slope: f32,
    depth_separable_channels: usize,
    depth_separable_num_layers: usize,
    duration_predictor_flow_bins: usize,
    duration_predictor_tail_bound: f32,
    duration_predictor_kernel_size: usize,
    duration_predictor_num_flows: usize,
    duration_predictor_filter_channels: usize,
    prior_encoder_num_flows: usize,
    prior_encoder_num_wavenet_layers: usize,
    wavenet_kernel_size: usize,
    wavenet_dilation_rate: usize,
    speaking_rate: f32,
    noise_scale: f32,
    noise_scale_duration: f32,
    sampling_rate: u32,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            vocab_size: 38,
            hidden_size: 192,
            num_hidden_layers: 6,
            num_attention_heads: 2,
            window_size: 4,
            use_bias: true,
            ffn_dim: 768,
            ffn_kernel_size: 3,
            flow_size: 192,
            hidden_act: "relu".to_owned(),
            layer_norm_eps: 1e-5,
            use_stochastic_duration_prediction: true,
            num_speakers: 1,
            speaker_embedding_size: 0,
            upsample_initial_channel: 512,
            upsample_rates: vec![8, 8, 2, 2],
            upsample_kernel_sizes: vec![16, 16, 4, 4],
            resblock_kernel_sizes: vec![3, 7, 11],
            resblock_dilation_sizes: vec![vec![1, 3, 5]; 3],
            leaky_relu_slope: 0.1,
            depth_separable_channels: 2,
            depth_separable_num_layers: 3,
            duration_predictor_flow_bins: 10,
            duration_predictor_tail_bound: 5.0,
            duration_predictor_kernel_size: 3,
            duration_predictor_num_flows: 4,
            duration_predictor_filter_channels: 256,
            prior_encoder_num_flows: 4,
            prior_encoder_num_wavenet_layers: 4,
            wavenet_kernel_size: 5,
            wavenet_dilation_rate: 1,
            speaking_rate: 1.0,
            noise_scale: 0.667,
            noise_scale_duration: 0.8,
            sampling_rate: 16_000,
        }
    }
}

fn bounded(key: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    let inside = (least..=most).contains(&value);
    if inside { Ok(value) } else { Err(format!("{key} is {value}, not {least} to {most}")) }
}

/// A kernel that looks as far back as ahead.
fn odd(key: &str, kernel: usize) -> Result<usize, String> {
    let kernel = bounded(key, kernel, 1, 31)?;
    if kernel % 2 == 1 { Ok(kernel) } else { Err(format!("{key} is {kernel}; odd ones are known")) }
}

fn within(key: &str, value: f32, least: f32, most: f32) -> Result<f32, String> {
    let inside = (least..=most).contains(&value);
    if inside { Ok(value) } else { Err(format!("{key} is {value}, not {least} to {most}")) }
}

impl Config {
    /// The error names the key and its bounds.
    pub(crate) fn parse(value: Value) -> Result<Config, String> {
        let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let flow_size = bounded("flow_size", raw.flow_size, 2, 1 << 12)?;
        if flow_size % 2 == 1 {
            return Err(format!("flow_size is {flow_size}; it is halved, so it must be even"));
        }
        let wave_net = WaveNetShape {
            layers: bounded("prior_encoder_num_wavenet_layers", raw.prior_encoder_num_wavenet_layers, 1, 32)?,
            kernel: odd("wavenet_kernel_size", raw.wavenet_kernel_size)?,
            dilation_rate: bounded("wavenet_dilation_rate", raw.wavenet_dilation_rate, 1, 8)?,
        };
        if (wave_net.dilation_rate as f64).powi(wave_net.layers as i32) > 512.0 {
            return Err("wavenet_dilation_rate grows beyond 512 over the layers".to_owned());
        }
        Ok(Config {
            vocabulary: bounded("vocab_size", raw.vocab_size, 1, 1 << 20)?,
            text: Text::parse(&raw)?,
            durations: Durations::parse(&raw)?,
            flow_size,
            flows: bounded("prior_encoder_num_flows", raw.prior_encoder_num_flows, 1, 32)?,
            wave_net,
            decoder: Decoder::parse(&raw)?,
            voices: Voices::parse(&raw)?,
            rate: bounded("sampling_rate", raw.sampling_rate as usize, 4_000, 192_000)? as u32,
            speaking_rate: within("speaking_rate", raw.speaking_rate, 0.05, 20.0)?,
            noise: within("noise_scale", raw.noise_scale, 0.0, 10.0)?,
            duration_noise: within("noise_scale_duration", raw.noise_scale_duration, 0.0, 10.0)?,
        })
    }

    /// Samples of a frame of the flow.
    pub(crate) fn hop(&self) -> usize {
        self.decoder.stages.iter().map(|(rate, _)| rate).product()
    }
}

impl Text {
    fn parse(raw: &Raw) -> Result<Text, String> {
        let width = bounded("hidden_size", raw.hidden_size, 1, 1 << 12)?;
        let heads = bounded("num_attention_heads", raw.num_attention_heads, 1, 256)?;
        if !width.is_multiple_of(heads) {
            return Err(format!("hidden_size {width} is no multiple of num_attention_heads {heads}"));
        }
        let activation = match raw.hidden_act.as_str() {
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "silu" | "swish" => Activation::Silu,
            other => return Err(format!("hidden_act is {other:.40?}; relu, gelu, gelu_new and silu are known")),
        };
        Ok(Text {
            width,
            layers: bounded("num_hidden_layers", raw.num_hidden_layers, 1, 128)?,
            heads,
            window: bounded("window_size", raw.window_size, 1, 256)?,
            bias: raw.use_bias,
            intermediate: bounded("ffn_dim", raw.ffn_dim, 1, 1 << 15)?,
            kernel: bounded("ffn_kernel_size", raw.ffn_kernel_size, 1, 31)?,
            activation,
            epsilon: within("layer_norm_eps", raw.layer_norm_eps, 0.0, 1.0)?,
        })
    }
}

impl Durations {
    fn parse(raw: &Raw) -> Result<Durations, String> {
        let kernel = odd("duration_predictor_kernel_size", raw.duration_predictor_kernel_size)?;
        if !raw.use_stochastic_duration_prediction {
            let filters = raw.duration_predictor_filter_channels;
            let filters = bounded("duration_predictor_filter_channels", filters, 1, 1 << 12)?;
            return Ok(Durations::Deterministic { kernel, filters });
        }
        if raw.depth_separable_channels != 2 {
            return Err(format!("depth_separable_channels is {}; 2 is known", raw.depth_separable_channels));
        }
        let layers = bounded("depth_separable_num_layers", raw.depth_separable_num_layers, 1, 16)?;
        if (kernel as f64).powi(layers as i32) > 65_536.0 {
            return Err("duration_predictor_kernel_size grows beyond 65536 over depth_separable_num_layers".to_owned());
        }
        Ok(Durations::Stochastic {
            kernel,
            layers,
            flows: bounded("duration_predictor_num_flows", raw.duration_predictor_num_flows, 1, 32)?,
            bins: bounded("duration_predictor_flow_bins", raw.duration_predictor_flow_bins, 2, 512)?,
            bound: within("duration_predictor_tail_bound", raw.duration_predictor_tail_bound, 0.1, 1000.0)?,
        })
    }
}

impl Decoder {
    fn parse(raw: &Raw) -> Result<Decoder, String> {
        let stages = bounded("the number of upsample_rates", raw.upsample_rates.len(), 1, 8)?;
        if raw.upsample_kernel_sizes.len() != stages {
            let kernels = raw.upsample_kernel_sizes.len();
            return Err(format!("there are {stages} upsample_rates and {kernels} upsample_kernel_sizes"));
        }
        let channels = bounded("upsample_initial_channel", raw.upsample_initial_channel, 1 << stages, 1 << 13)?;
        for (rate, kernel) in raw.upsample_rates.iter().zip(&raw.upsample_kernel_sizes) {
            bounded("one of upsample_rates", *rate, 1, 64)?;
            bounded("one of upsample_kernel_sizes", *kernel, *rate, 256)?;
            if (kernel - rate) % 2 == 1 {
                return Err(format!(
                    "upsample_kernel_sizes has {kernel} for the rate {rate}; even differences are known"
                ));
            }
        }
        let hop: usize = raw.upsample_rates.iter().product();
        bounded("the product of upsample_rates", hop, 1, 1 << 13)?;
        let mut values = channels;
        for rate in &raw.upsample_rates {
            // A stage is longer by its rate and half as wide.
            values = values * rate / 2;
            bounded("what upsample_initial_channel and upsample_rates make of a frame", values, 1, MOST_VALUES)?;
        }
        let blocks = bounded("the number of resblock_kernel_sizes", raw.resblock_kernel_sizes.len(), 1, 8)?;
        if raw.resblock_dilation_sizes.len() != blocks {
            let dilations = raw.resblock_dilation_sizes.len();
            return Err(format!("there are {blocks} resblock_kernel_sizes and {dilations} resblock_dilation_sizes"));
        }
        for (kernel, dilations) in raw.resblock_kernel_sizes.iter().zip(&raw.resblock_dilation_sizes) {
            odd("one of resblock_kernel_sizes", *kernel)?;
            bounded("the length of one of resblock_dilation_sizes", dilations.len(), 1, 8)?;
            for dilation in dilations {
                bounded("one of resblock_dilation_sizes", *dilation, 1, 64)?;
            }
        }
        Ok(Decoder {
            channels,
            stages: raw.upsample_rates.iter().copied().zip(raw.upsample_kernel_sizes.iter().copied()).collect(),
            blocks: raw.resblock_kernel_sizes.iter().copied().zip(raw.resblock_dilation_sizes.clone()).collect(),
            slope: within("leaky_relu_slope", raw.leaky_relu_slope, 0.0, 1.0)?,
        })
    }
}

impl Voices {
    fn parse(raw: &Raw) -> Result<Option<Voices>, String> {
        if bounded("num_speakers", raw.num_speakers, 0, 1 << 16)? <= 1 {
            return Ok(None);
        }
        let width = bounded("speaker_embedding_size", raw.speaker_embedding_size, 1, 1 << 12)?;
        Ok(Some(Voices { count: raw.num_speakers, width }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_file_leaves_out_is_as_published() {
        let config = Config::parse(json!({ "model_type": "vits" })).unwrap();
        assert_eq!((config.hop(), config.text.width, config.rate), (256, 192, 16_000));
        assert_eq!(config.decoder.blocks[2], (11, vec![1, 3, 5]));
    }

    #[test]
    fn shapes_beyond_bounds_are_refused_by_name() {
        for (key, value) in [
            ("vocab_size", json!(0)),
            ("hidden_size", json!(1_u64 << 40)),
            ("num_attention_heads", json!(7)),
            ("hidden_act", json!("tanh")),
            ("wavenet_kernel_size", json!(4)),
            ("wavenet_dilation_rate", json!(9)),
            ("upsample_kernel_sizes", json!([16, 16, 4])),
            ("upsample_kernel_sizes", json!([16, 16, 4, 3])),
            ("upsample_rates", json!([65, 8, 2, 2])),
            ("upsample_initial_channel", json!(1 << 13)),
            ("resblock_dilation_sizes", json!([[1], [1]])),
            ("resblock_kernel_sizes", json!([3, 7, 10])),
            ("depth_separable_channels", json!(4)),
            ("duration_predictor_tail_bound", json!(-1)),
            ("speaking_rate", json!(0)),
            ("num_speakers", json!(1_u64 << 30)),
        ] {
            let error = Config::parse(json!({ key: value })).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        let error = Config::parse(json!({ "num_speakers": 4 })).unwrap_err();
        assert!(error.contains("speaker_embedding_size"), "{error}");
    }
}
