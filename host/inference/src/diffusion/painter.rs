//! A model that draws for whoever asks, one picture at a time.

use std::num::NonZeroUsize;
use std::path::Path;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use image::RgbImage;

use super::files::{FLUX, Parts};
use super::flux::Flux;
use super::pipeline::{Drawing, Pipeline};
use crate::backend::{Canvas, DrawRequest, PictureAnswer, PictureFormat, SentPicture, TextToImage};
use crate::desk::Desk;
use crate::room::{Room, floats};
use crate::{AiError, pictures};

/// How a model runs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests of one tenant that may wait.
    pub queue: NonZeroUsize,
}

/// A text-to-image model with its thread.
pub struct Painter {
    desk: Desk<Artist>,
    room: Room,
    canvas: Canvas,
    answer: PictureAnswer,
}

/// What draws.
enum Artist {
    StableDiffusion(Box<Pipeline>),
    Flux(Box<Flux>),
}

/// The guidance that FLUX is told when none is asked for, where it was trained to know it.
const FLUX_GUIDANCE: f64 = 3.5;

impl Artist {
    fn load(folder: &Path, threads: NonZeroUsize) -> Result<Artist, String> {
        if Parts::open(folder)?.class() == FLUX {
            return Flux::load(folder, threads).map(Box::new).map(Artist::Flux);
        }
        Pipeline::load(folder, threads).map(Box::new).map(Artist::StableDiffusion)
    }

    fn canvas(&self) -> Canvas {
        let ((height, width), unit) = match self {
            Artist::StableDiffusion(pipeline) => (pipeline.native(), pipeline.factor()),
            Artist::Flux(flux) => (flux.native(), flux.factor()),
        };
        Canvas { height, width, unit }
    }

    /// Bytes that a drawing holds at most, before what it begins with.
    fn peak(&self, size: (usize, usize), from_picture: bool) -> u64 {
        let values = match self {
            Artist::StableDiffusion(pipeline) => pipeline.peak(size, from_picture),
            Artist::Flux(flux) => flux.peak(size),
        };
        // The picture in bytes too, and encoded.
        floats(values).saturating_add(2 * 3 * (size.0 * size.1) as u64)
    }

    fn default_guidance(&self) -> f64 {
        match self {
            Artist::StableDiffusion(pipeline) => pipeline.default_guidance(),
            Artist::Flux(_) => FLUX_GUIDANCE,
        }
    }
}

impl Painter {
    /// Reads a folder with `model_index.json` and starts the thread. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Painter, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each drawing.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<Painter, String> {
        let artist = Artist::load(folder, settings.threads)?;
        let canvas = artist.canvas();
        let answer = match artist {
            Artist::StableDiffusion(_) => PictureAnswer::Png,
            Artist::Flux(_) => PictureAnswer::Json,
        };
        let desk = Desk::open("diffusion", settings.queue, artist)
            .map_err(|error| format!("no thread for the model: {error}"))?;
        Ok(Painter { desk, room, canvas, answer })
    }
}

impl TextToImage for Painter {
    fn draw(&self, request: DrawRequest) -> BoxFuture<'_, Result<Bytes, AiError>> {
        let (canvas, room) = (self.canvas, self.room.clone());
        let (tenant, deadline) = (request.tenant.clone(), request.deadline);
        self.desk
            .run(tenant, deadline, move |artist, ticket| {
                let (size, given) = sizes(canvas, &request)?;
                let peak = artist.peak(size, request.image.is_some()).saturating_add(given);
                let what = format!("a picture of {} by {} pixels ('/height' and '/width')", size.0, size.1);
                let _reserved = ticket.reserve(&room, peak, &what)?;
                let drawing = drawing(artist, canvas, &request)?;
                let picture = match artist {
                    Artist::StableDiffusion(pipeline) => pipeline.draw(&drawing, &|| ticket.check()),
                    Artist::Flux(flux) => flux.draw(&drawing, &|| ticket.check()),
                }?;
                encode(&picture, request.format)
            })
            .boxed()
    }

    fn canvas(&self) -> Canvas {
        self.canvas
    }

    fn answer(&self) -> PictureAnswer {
        self.answer
    }
}

/// `picture` as it was asked for.
pub(crate) fn encode(picture: &RgbImage, format: PictureFormat) -> Result<Bytes, AiError> {
    match format {
        PictureFormat::Png => pictures::png(picture),
        PictureFormat::Jpeg => pictures::jpeg(picture),
    }
}

/// Height and width of what is to be drawn, and the bytes of the pictures that it begins with.
fn sizes(canvas: Canvas, request: &DrawRequest) -> Result<((usize, usize), u64), AiError> {
    let header = |sent: &SentPicture| pictures::header(&sent.data, sent.property);
    let image = request.image.as_ref().map(header).transpose()?;
    let mask = request.mask.as_ref().map(header).transpose()?;
    let fitted = |image: &pictures::Header| fitting((image.height, image.width), canvas);
    let (height, width) = image.as_ref().map_or((canvas.height, canvas.width), fitted);
    let given = [image, mask].into_iter().flatten().map(|header| header.peak).fold(0, u64::saturating_add);
    Ok(((request.height.unwrap_or(height), request.width.unwrap_or(width)), given))
}

/// The request with the model's own choices for what it leaves open.
fn drawing(artist: &Artist, canvas: Canvas, request: &DrawRequest) -> Result<Drawing, AiError> {
    let decode = |sent: &SentPicture| pictures::decode(&sent.data, sent.property);
    let image = request.image.as_ref().map(decode).transpose()?;
    let (height, width) = image.as_ref().map_or((canvas.height, canvas.width), |image| {
        fitting((image.height() as usize, image.width() as usize), canvas)
    });
    Ok(Drawing {
        prompt: request.prompt.clone(),
        negative: request.negative_prompt.clone(),
        height: request.height.unwrap_or(height),
        width: request.width.unwrap_or(width),
        steps: request.steps,
        guidance: request.guidance.unwrap_or_else(|| artist.default_guidance()),
        seed: request.seed.unwrap_or_else(rand::random),
        mask: request.mask.as_ref().map(decode).transpose()?,
        image,
        strength: request.strength,
    })
}

/// The proportions of a picture of that height and width on the area that the model was trained on.
fn fitting((height, width): (usize, usize), canvas: Canvas) -> (usize, usize) {
    let (height, width) = (height.max(1) as f64, width.max(1) as f64);
    let scale = ((canvas.height * canvas.width) as f64 / (height * width)).sqrt();
    // Four times as long as the canvas is as far as proportions are kept: no side becomes nothing.
    let most = 4 * canvas.height.max(canvas.width) / canvas.unit;
    let side = |side: f64| ((side * scale / canvas.unit as f64).round() as usize).clamp(1, most.max(1)) * canvas.unit;
    (side(height), side(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_proportions() {
        let canvas = Canvas { height: 512, width: 512, unit: 8 };
        let fit = |height, width| fitting((height, width), canvas);
        assert_eq!(fit(512, 512), (512, 512));
        assert_eq!(fit(3000, 4000), (440, 592));
        assert_eq!(fit(1, 8000), (8, 2048));
    }
}
