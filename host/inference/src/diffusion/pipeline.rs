//! From a text to a picture: the parts of Stable Diffusion, put together.

use std::num::NonZeroUsize;
use std::path::Path;

use image::RgbImage;
use image::imageops::FilterType;

use super::clip::Clip;
use super::files::Parts;
use super::layers::{Check, Compute, Plane};
use super::schedule::{Schedule, Steps};
use super::unet::{Condition, Moment, Unet};
use super::vae::Vae;
use super::words::Words;
use crate::AiError;
use crate::noise::Noise;

/// A text-to-image model of the Stable Diffusion family, ready to compute on the thread that calls it.
pub struct Pipeline {
    compute: Compute,
    readers: Vec<Reader>,
    unet: Unet,
    vae: Vae,
    schedule: Schedule,
    distilled: bool,
    /// An absent negative prompt is a row of zeros rather than the encoding of an empty text.
    zeros: bool,
}

/// A tokenizer and its encoder.
struct Reader {
    words: Words,
    clip: Clip,
}

/// What texts say, as the network of noise reads it.
pub struct Meaning(Condition);

impl Meaning {
    /// A row for each token.
    pub fn tokens(&self) -> &[f32] {
        &self.0.text
    }

    /// A row for the whole text; empty where the model takes none.
    pub fn pooled(&self) -> &[f32] {
        &self.0.pooled
    }

    /// As many rows of zeros: what some models weigh a prompt against.
    pub fn blank(&self) -> Meaning {
        Meaning(Condition { text: vec![0.0; self.0.text.len()], pooled: vec![0.0; self.0.pooled.len()] })
    }
}

/// A picture to be drawn.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// What it shows.
    pub prompt: String,
    /// What it does not.
    pub negative: Option<String>,
    /// In pixels, a multiple of [`Pipeline::factor`].
    pub height: usize,
    /// In pixels, a multiple of [`Pipeline::factor`].
    pub width: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// How much the prompt weighs; 1 and less is not at all more than without.
    pub guidance: f64,
    /// Determines the noise.
    pub seed: u64,
    /// What to start from, of any size.
    pub image: Option<RgbImage>,
    /// Which part of it to draw anew: where this is light.
    pub mask: Option<RgbImage>,
    /// How far from the image to begin: 1 is from noise alone.
    pub strength: f64,
}

/// What of a picture stays.
struct Kept {
    latent: Plane,
    /// 1 where it is drawn anew, a value for each pixel of the latent.
    mask: Vec<f32>,
    /// The latent of the picture without what is drawn anew, for networks that look at it.
    masked: Option<Plane>,
}

impl Pipeline {
    /// Reads a folder with `model_index.json`. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, threads: NonZeroUsize) -> Result<Pipeline, String> {
        let parts = Parts::open(folder)?;
        let mut readers = Vec::new();
        for (tokenizer, encoder) in [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")] {
            if parts.part(encoder).is_some() {
                let clip = Clip::load(&parts.config(encoder)?, &mut parts.tensors(encoder)?)?;
                readers.push(Reader { words: Words::load(&parts.path(tokenizer), clip.vocabulary())?, clip });
            }
        }
        let config = parts.config("unet")?;
        let unet = Unet::load(&config, &mut parts.tensors("unet")?)?;
        let vae = Vae::load(&parts.config("vae")?, &mut parts.tensors("vae")?)?;
        let scheduler = super::config::Config::open(parts.path("scheduler").join("scheduler_config.json"))?;
        let pipeline = Pipeline {
            compute: Compute::new(threads)?,
            readers,
            unet,
            vae,
            schedule: Schedule::read(&scheduler)?,
            distilled: scheduler.text("_class_name") == Some("LCMScheduler"),
            zeros: parts.index().flag("force_zeros_for_empty_prompt", false)?,
        };
        pipeline.check_sizes().map_err(|why| config.fault(why))?;
        Ok(pipeline)
    }

    /// That the parts fit each other.
    fn check_sizes(&self) -> Result<(), String> {
        let (channels, latent) = (self.unet.inputs(), self.vae.latent());
        if channels != latent && channels != 2 * latent + 1 {
            return Err(format!("in_channels is {channels}, the autoencoder has {latent}"));
        }
        if self.unet.outputs() != latent {
            return Err(format!("out_channels is {}, the autoencoder has {latent}", self.unet.outputs()));
        }
        let width: usize = self.readers.iter().map(|reader| reader.clip.hidden()).sum();
        if width != self.unet.text() {
            return Err(format!("cross_attention_dim is {}, the text encoders give {width}", self.unet.text()));
        }
        let pooled = self.readers.last().map(|reader| reader.clip.pooled());
        if self.unet.pooled().is_some_and(|wanted| Some(wanted) != pooled) {
            return Err("projection_class_embeddings_input_dim does not fit the text encoder's projection".to_owned());
        }
        let lengths: Vec<usize> = self.readers.iter().map(|reader| reader.clip.positions()).collect();
        if lengths.iter().any(|length| *length != lengths[0]) {
            return Err("the text encoders read different numbers of tokens".to_owned());
        }
        Ok(())
    }

    /// Pixels along the side of one of a latent: sizes are multiples of it.
    pub fn factor(&self) -> usize {
        self.vae.factor()
    }

    /// Height and width that the model was trained on.
    pub fn native(&self) -> (usize, usize) {
        let (height, width) = self.unet.native();
        (height * self.factor(), width * self.factor())
    }

    /// The guidance when none is asked for: what the contract says, but for models distilled to a few steps, which large
    /// values burn.
    pub fn default_guidance(&self) -> f64 {
        if self.distilled && !self.unet.knows_guidance() { 2.0 } else { 7.5 }
    }

    /// The sampler.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Values that [`Pipeline::draw`] holds at most for a picture of that size, which may begin with one.
    pub(super) fn peak(&self, size: (usize, usize), from_picture: bool) -> usize {
        let latent = (size.0 / self.factor(), size.1 / self.factor());
        let texts: usize = self.readers.iter().map(|reader| reader.clip.peak()).sum();
        let tokens = self.readers.first().map_or(0, |reader| reader.clip.positions());
        // What the sampler keeps of earlier steps, what goes into the network and what it said, twice where guided.
        let own = latent.0 * latent.1 * (8 * self.vae.latent() + 2 * self.unet.inputs());
        let (kept, encode) = if from_picture {
            let picture = 3 * size.0 * size.1;
            // With a mask the picture is encoded twice, the second time without what it covers.
            (2 * latent.0 * latent.1 * self.vae.latent() + latent.0 * latent.1, picture + self.vae.encode_peak(size))
        } else {
            (0, 0)
        };
        let network = self.unet.peak(latent, tokens);
        own + kept + texts.max(encode).max(network).max(self.vae.decode_peak(latent))
    }

    /// The ids of `text`'s tokens for each text encoder.
    ///
    /// # Errors
    /// 5006 when it cannot be read.
    pub fn tokens(&self, text: &str) -> Result<Vec<Vec<u32>>, AiError> {
        let unreadable = |error| AiError::bad_input(format_args!("'/prompt' cannot be read as tokens: {error}"));
        let ids = self.readers.iter().map(|reader| reader.words.encode(text, reader.clip.positions()));
        ids.collect::<Result<_, _>>().map_err(unreadable)
    }

    /// What `text` says.
    ///
    /// # Errors
    /// As [`Pipeline::tokens`].
    pub fn read(&self, text: &str) -> Result<Meaning, AiError> {
        let ids = self.tokens(text)?;
        let both = self.unet.pooled().is_some();
        let encoded: Vec<_> =
            self.readers.iter().zip(&ids).map(|(reader, ids)| reader.clip.encode(&self.compute, ids)).collect();
        let rows: Vec<&[f32]> =
            encoded.iter().map(|encoded| if both { &encoded.second_last[..] } else { &encoded.last }).collect();
        let widths: Vec<usize> = self.readers.iter().map(|reader| reader.clip.hidden()).collect();
        let mut text = Vec::with_capacity(rows.iter().map(|rows| rows.len()).sum());
        for at in 0..ids.first().map_or(0, Vec::len) {
            for (rows, width) in rows.iter().zip(&widths) {
                text.extend_from_slice(&rows[at * width..(at + 1) * width]);
            }
        }
        let pooled = encoded.into_iter().next_back().filter(|_| both).map(|encoded| encoded.pooled).unwrap_or_default();
        Ok(Meaning(Condition { text, pooled }))
    }

    /// What the prompt is weighed against.
    fn read_negative(&self, drawing: &Drawing, prompt: &Meaning) -> Result<Meaning, AiError> {
        match &drawing.negative {
            None if self.zeros => Ok(prompt.blank()),
            negative => self.read(negative.as_deref().unwrap_or_default()),
        }
    }

    /// What the network says of a noisy latent at a time of training, for a picture of `(height, width)` pixels.
    ///
    /// # Errors
    /// What `check` says.
    pub fn predict(
        &self,
        x: &Plane,
        time: f64,
        size: (usize, usize),
        guidance: f64,
        meaning: &Meaning,
        check: Check<'_>,
    ) -> Result<Plane, AiError> {
        let (height, width) = (size.0 as f32, size.1 as f32);
        let moment = Moment { time, sizes: [height, width, 0.0, 0.0, height, width], guidance: guidance as f32 };
        self.unet.forward(&self.compute, x, moment, &meaning.0, check)
    }

    /// The picture of a latent as the autoencoder has it, three channels from -1 to 1.
    ///
    /// # Errors
    /// What `check` says.
    pub fn decode(&self, latent: &Plane, check: Check<'_>) -> Result<Plane, AiError> {
        self.vae.decode(&self.compute, latent, check)
    }

    /// Mean and logarithm of the variance of the latent of a picture of three channels from -1 to 1.
    ///
    /// # Errors
    /// What `check` says.
    pub fn encode(&self, picture: &Plane, check: Check<'_>) -> Result<(Plane, Plane), AiError> {
        self.vae.encode(&self.compute, picture, check)
    }

    /// Draws. `check` is asked between layers whether to go on.
    ///
    /// # Errors
    /// What `check` says, 5006 for a text or picture that cannot be used, 3046 when the weights give no numbers.
    pub fn draw(&self, drawing: &Drawing, check: Check<'_>) -> Result<RgbImage, AiError> {
        let mut noise = Noise::new(drawing.seed);
        let (height, width) = (drawing.height / self.factor(), drawing.width / self.factor());
        let mut start = Plane::new(height.max(1), width.max(1), self.vae.latent());
        start.data = noise.take(start.data.len());
        let latent = self.denoise(drawing, start, &mut |count| noise.take(count), check)?;
        let picture = self.decode(&self.vae.unscaled(latent), check)?;
        if picture.data.iter().any(|value| !value.is_finite()) {
            return Err(no_numbers());
        }
        rgb(&picture)
    }

    /// The latent that noise becomes: `start` holds standard normal values, `fresh` gives as many more as asked for.
    ///
    /// # Errors
    /// As [`Pipeline::draw`].
    pub fn denoise(
        &self,
        drawing: &Drawing,
        start: Plane,
        fresh: &mut dyn FnMut(usize) -> Vec<f32>,
        check: Check<'_>,
    ) -> Result<Plane, AiError> {
        let _computing = self.compute.pool.step();
        let prompt = self.read(&drawing.prompt)?;
        let guided = drawing.guidance > 1.0 && !self.unet.knows_guidance();
        let negative = guided.then(|| self.read_negative(drawing, &prompt)).transpose()?;
        let kept = self.kept(drawing, &start, check)?;
        let mut steps = self.schedule.steps(drawing.steps);
        let begin = match &drawing.image {
            Some(_) => {
                let asked = drawing.steps.min(self.schedule.most());
                asked - ((asked as f64 * drawing.strength) as usize).clamp(1, asked)
            }
            None => 0,
        };
        steps.begin_at(begin);
        let noise = start.clone();
        // What is drawn anew from all of the noise begins as noise alone.
        let begun_from = kept.as_ref().filter(|kept| kept.mask.is_empty() || drawing.strength < 1.0);
        let mut x = self.start(start, begun_from, &steps, begin);
        for at in begin..steps.len() {
            let input = self.input(&x, steps.input_scale(), kept.as_ref());
            let (time, size) = (steps.time(at), (drawing.height, drawing.width));
            let mut predicted = self.predict(&input, time, size, drawing.guidance, &prompt, check)?;
            if let Some(negative) = &negative {
                let without = self.predict(&input, time, size, drawing.guidance, negative, check)?;
                for (with, without) in predicted.data.iter_mut().zip(&without.data) {
                    *with = without + drawing.guidance as f32 * (*with - without);
                }
            }
            steps.step(&predicted.data, &mut x.data, fresh);
            if let Some(kept) = kept.as_ref().filter(|kept| !kept.mask.is_empty() && kept.masked.is_none()) {
                kept.restore(&mut x, &noise, steps.mixture(at + 1));
            }
            if x.data.iter().any(|value| !value.is_finite()) {
                return Err(no_numbers());
            }
        }
        Ok(x)
    }

    /// Noise, with as much of the picture in it as the first step expects.
    fn start(&self, mut noise: Plane, kept: Option<&Kept>, steps: &Steps<'_>, begin: usize) -> Plane {
        match kept {
            Some(kept) => {
                let (signal, strength) = steps.mixture(begin);
                for (value, latent) in noise.data.iter_mut().zip(&kept.latent.data) {
                    *value = (signal * f64::from(*latent) + strength * f64::from(*value)) as f32;
                }
            }
            None => {
                let strength = steps.initial() as f32;
                noise.data.iter_mut().for_each(|value| *value *= strength);
            }
        }
        noise
    }

    /// What the network looks at.
    fn input(&self, x: &Plane, scale: f64, kept: Option<&Kept>) -> Plane {
        let mut input = x.clone();
        input.data.iter_mut().for_each(|value| *value *= scale as f32);
        if self.unet.inputs() == self.vae.latent() {
            return input;
        }
        let pixels = x.height * x.width;
        match kept.and_then(|kept| kept.masked.as_ref().map(|masked| (&kept.mask, masked))) {
            Some((mask, masked)) => input.beside(&input.with(mask.clone())).beside(masked),
            // Everything is drawn anew.
            None => input.beside(&input.with(vec![1.0; pixels])).beside(&Plane::new(x.height, x.width, x.channels)),
        }
    }

    /// The picture to start from.
    fn kept(&self, drawing: &Drawing, start: &Plane, check: Check<'_>) -> Result<Option<Kept>, AiError> {
        let Some(image) = &drawing.image else {
            return match drawing.mask {
                Some(_) => Err(AiError::bad_input("'/mask' needs '/image', the picture that it covers")),
                None => Ok(None),
            };
        };
        let factor = self.factor();
        let (height, width) = (start.height * factor, start.width * factor);
        let image = image::imageops::resize(image, width as u32, height as u32, FilterType::Lanczos3);
        let picture = plane(&image);
        // The most likely latent: the spread about it is a few thousandths of the noise that comes.
        let latent = self.vae.scaled(self.encode(&picture, check)?.0);
        let Some(mask) = &drawing.mask else {
            return Ok(Some(Kept { latent, mask: Vec::new(), masked: None }));
        };
        let mask = image::imageops::resize(mask, width as u32, height as u32, FilterType::Nearest);
        let light = |x: usize, y: usize| {
            mask.get_pixel(x as u32, y as u32).0.iter().map(|v| u32::from(*v)).sum::<u32>() >= 3 * 128
        };
        let pixels = (0..start.height).flat_map(|y| (0..start.width).map(move |x| (x * factor, y * factor)));
        let small = pixels.map(|(x, y)| f32::from(u8::from(light(x, y)))).collect();
        let masked = (self.unet.inputs() != self.vae.latent()).then(|| -> Result<Plane, AiError> {
            let mut picture = picture.clone();
            for (at, pixel) in picture.data.chunks_exact_mut(3).enumerate() {
                if light(at % width, at / width) {
                    pixel.fill(0.0);
                }
            }
            Ok(self.vae.scaled(self.encode(&picture, check)?.0))
        });
        Ok(Some(Kept { latent, mask: small, masked: masked.transpose()? }))
    }
}

impl Kept {
    /// Puts back what is not drawn anew, as noisy as the rest.
    fn restore(&self, x: &mut Plane, noise: &Plane, (signal, strength): (f64, f64)) {
        let channels = x.channels;
        for (at, value) in x.data.iter_mut().enumerate() {
            let mask = self.mask[at / channels];
            let old = signal * f64::from(self.latent.data[at]) + strength * f64::from(noise.data[at]);
            *value = mask * *value + (1.0 - mask) * old as f32;
        }
    }
}

pub(super) fn no_numbers() -> AiError {
    AiError::model_unavailable("its weights give values that are no numbers; verify the model")
}

/// Colours from -1 to 1.
fn plane(image: &RgbImage) -> Plane {
    let data = image.as_raw().iter().map(|value| f32::from(*value) / 127.5 - 1.0).collect();
    Plane { data, height: image.height() as usize, width: image.width() as usize, channels: 3 }
}

/// Colours from 0 to 255.
pub(super) fn rgb(picture: &Plane) -> Result<RgbImage, AiError> {
    let bytes = picture.data.iter().map(|value| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    RgbImage::from_raw(picture.width as u32, picture.height as u32, bytes)
        .ok_or_else(|| AiError::internal("the picture has the wrong size"))
}
