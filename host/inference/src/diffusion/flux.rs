//! FLUX.1: a picture by flow matching (Lipman et al. 2023), straight from noise in a few steps.

mod t5;
mod transformer;

use std::num::NonZeroUsize;
use std::path::Path;

use image::RgbImage;
use serde_json::json;

use super::clip::Clip;
use super::config::Config;
use super::files::Parts;
use super::layers::{Check, Compute, Plane};
use super::pipeline::{Drawing, no_numbers, rgb};
use super::vae::Vae;
use super::words::Words;
use crate::AiError;
use crate::noise::Noise;
use t5::{Pieces, T5};
use transformer::Transformer;

/// Tokens of a prompt that T5 reads: as the model of few steps was distilled, and as the other was trained.
const FEW: usize = 256;
const MANY: usize = 512;
/// The usual height and width of its latents, which no configuration says.
const NATIVE: usize = 128;

/// A FLUX.1 model, ready to compute on the thread that calls it.
pub struct Flux {
    compute: Compute,
    words: Words,
    clip: Clip,
    pieces: Pieces,
    t5: T5,
    transformer: Transformer,
    vae: Vae,
    flow: Flow,
}

/// How times are shifted towards noise.
#[derive(Clone, Copy)]
enum Flow {
    /// By a factor.
    Fixed(f64),
    /// By one that grows with the picture: of tokens, the few and the many, and the logarithms of the shift there.
    Growing { tokens: (f64, f64), shifts: (f64, f64) },
}

impl Flux {
    /// Reads a folder with `model_index.json`. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, threads: NonZeroUsize) -> Result<Flux, String> {
        let parts = Parts::open(folder)?;
        let clip = Clip::load(&parts.config("text_encoder")?, &mut parts.tensors("text_encoder")?)?;
        let t5 = T5::load(&parts.config("text_encoder_2")?, &mut parts.tensors("text_encoder_2")?)?;
        let config = parts.config("transformer")?;
        let transformer = Transformer::load(&config, &mut parts.tensors("transformer")?)?;
        let vae = Vae::load(&parts.config("vae")?, &mut parts.tensors("vae")?)?;
        let sizes = transformer.sizes;
        for (key, wanted, given) in [
            ("in_channels", sizes.picture, 4 * vae.latent()),
            ("joint_attention_dim", sizes.text, t5.hidden()),
            ("pooled_projection_dim", sizes.whole, clip.pooled()),
        ] {
            if wanted != given {
                return Err(config.fault(format_args!("{key} is {wanted}, the other parts give {given}")));
            }
        }
        Ok(Flux {
            compute: Compute::new(threads)?,
            words: Words::load(&parts.path("tokenizer"), clip.vocabulary())?,
            pieces: Pieces::load(&parts.path("tokenizer_2"), t5.vocabulary())?,
            flow: Flow::read(&Config::open(parts.path("scheduler").join("scheduler_config.json"))?)?,
            clip,
            t5,
            transformer,
            vae,
        })
    }

    /// Sizes in pixels are multiples of it.
    pub fn factor(&self) -> usize {
        2 * self.vae.factor()
    }

    /// The usual height and width in pixels.
    pub fn native(&self) -> (usize, usize) {
        (NATIVE * self.vae.factor(), NATIVE * self.vae.factor())
    }

    /// Values that [`Flux::draw`] holds at most for a picture of that size.
    pub(super) fn peak(&self, size: (usize, usize)) -> usize {
        let latent = (size.0 / self.vae.factor(), size.1 / self.vae.factor());
        let pixels = latent.0 * latent.1;
        let length = if self.transformer.knows_guidance() { MANY } else { FEW };
        let network = self.transformer.peak(pixels / 4, length);
        let texts = self.t5.peak(length).max(self.clip.peak());
        4 * pixels * self.vae.latent() + texts.max(network).max(self.vae.decode_peak(latent))
    }

    /// What `text` says: a row for each token, and one for the whole.
    ///
    /// # Errors
    /// 5006 when it cannot be read.
    pub fn read(&self, text: &str) -> Result<(Vec<f32>, Vec<f32>), AiError> {
        let unreadable = |error| AiError::bad_input(format_args!("'/prompt' cannot be read as tokens: {error}"));
        let length = if self.transformer.knows_guidance() { MANY } else { FEW };
        let ids = self.pieces.encode(text, length).map_err(unreadable)?;
        let words = self.words.encode(text, self.clip.positions()).map_err(unreadable)?;
        Ok((self.t5.encode(&self.compute, &ids), self.clip.encode(&self.compute, &words).pooled))
    }

    /// Draws. `check` is asked between layers whether to go on. FLUX knows no negative prompt and starts from no picture.
    ///
    /// # Errors
    /// What `check` says, 5006 for a text that cannot be used, 3046 when the weights give no numbers.
    pub fn draw(&self, drawing: &Drawing, check: Check<'_>) -> Result<RgbImage, AiError> {
        let factor = self.vae.factor();
        let mut start =
            Plane::new(2 * (drawing.height / (2 * factor)), 2 * (drawing.width / (2 * factor)), self.vae.latent());
        start.data = Noise::new(drawing.seed).take(start.data.len());
        let latent = self.vae.unscaled(self.denoise(drawing, &start, check)?);
        let picture = self.vae.decode(&self.compute, &latent, check)?;
        if picture.data.iter().any(|value| !value.is_finite()) {
            return Err(no_numbers());
        }
        rgb(&picture)
    }

    /// The latent that noise becomes, of even height and width.
    ///
    /// # Errors
    /// As [`Flux::draw`].
    pub fn denoise(&self, drawing: &Drawing, start: &Plane, check: Check<'_>) -> Result<Plane, AiError> {
        let _computing = self.compute.pool.step();
        let (text, whole) = self.read(&drawing.prompt)?;
        let size = (start.height / 2, start.width / 2);
        let times = self.flow.times(drawing.steps.max(1), size.0 * size.1);
        let mut tokens = packed(start);
        for pair in times.windows(2) {
            let (time, guidance) = (pair[0] as f32, drawing.guidance as f32);
            let velocity =
                self.transformer.forward(&self.compute, &tokens, size, (time, guidance), (&text, &whole), check)?;
            let distance = (pair[1] - pair[0]) as f32;
            tokens.iter_mut().zip(&velocity).for_each(|(token, velocity)| *token += distance * velocity);
            if tokens.iter().any(|value| !value.is_finite()) {
                return Err(no_numbers());
            }
        }
        Ok(unpacked(&tokens, start))
    }
}

impl Flow {
    fn read(config: &Config) -> Result<Flow, String> {
        config.only("_class_name", &[json!("FlowMatchEulerDiscreteScheduler")])?;
        for key in
            ["invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling"]
        {
            config.only(key, &[json!(false)])?;
        }
        config.only("shift_terminal", &[])?;
        config.only("time_shift_type", &[json!("exponential")])?;
        if !config.flag("use_dynamic_shifting", false)? {
            let shift = config.number("shift", Some(1.0))?;
            return if shift > 0.0 {
                Ok(Flow::Fixed(shift))
            } else {
                Err(config.fault(format_args!("shift is {shift}")))
            };
        }
        let (few, many) = (
            config.size("base_image_seq_len", Some(256), 1 << 24)?,
            config.size("max_image_seq_len", Some(4096), 1 << 24)?,
        );
        if few >= many {
            return Err(config.fault(format_args!("base_image_seq_len {few} is not below max_image_seq_len {many}")));
        }
        let shifts = (config.number("base_shift", Some(0.5))?, config.number("max_shift", Some(1.15))?);
        Ok(Flow::Growing { tokens: (few as f64, many as f64), shifts })
    }

    /// From noise, 1, to the picture, 0.
    fn times(self, steps: usize, count: usize) -> Vec<f64> {
        let shift = match self {
            Flow::Fixed(shift) => shift,
            Flow::Growing { tokens, shifts } => {
                let slope = (shifts.1 - shifts.0) / (tokens.1 - tokens.0);
                (shifts.0 + slope * (count as f64 - tokens.0)).exp()
            }
        };
        let even = (0..steps).map(|at| 1.0 - at as f64 / steps as f64);
        even.map(|time| shift * time / (1.0 + (shift - 1.0) * time)).chain([0.0]).collect()
    }
}

/// Where in a token the values of a pixel of four lie, channel by channel.
fn places(plane: &Plane) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (height, width, channels) = (plane.height, plane.width, plane.channels);
    (0..height * width).flat_map(move |pixel| {
        let (y, x) = (pixel / width, pixel % width);
        let token = (y / 2 * (width / 2) + x / 2) * 4 * channels + y % 2 * 2 + x % 2;
        (0..channels).map(move |channel| (pixel * channels + channel, token + 4 * channel))
    })
}

/// Four pixels to a token.
fn packed(plane: &Plane) -> Vec<f32> {
    let mut tokens = vec![0.0; plane.data.len()];
    places(plane).for_each(|(pixel, token)| tokens[token] = plane.data[pixel]);
    tokens
}

/// A plane like `like`.
fn unpacked(tokens: &[f32], like: &Plane) -> Plane {
    let mut plane = Plane::new(like.height, like.width, like.channels);
    places(like).for_each(|(pixel, token)| plane.data[pixel] = tokens[token]);
    plane
}
