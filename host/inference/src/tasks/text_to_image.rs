//! Pictures from texts, in the two shapes that programs know.
//!
//! Stable Diffusion and its kin: `{prompt, negative_prompt?, height?, width?, image? | image_b64?, mask?, num_steps?,
//! strength?, guidance?, seed?}` in, the bytes of a PNG out. FLUX: `{prompt, steps?, seed?}` in, `{image}` out, a JPEG in
//! base64. Which of them a model answers in is the model's architecture, or the name that it was called by where a
//! program written for FLUX is served by another model under that name.
//!
//! Bounds are Cloudflare's, but that a model whose own pictures are smaller than 256 pixels draws from 64 on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{FutureExt, stream};
use serde_json::{Map, Value, json};

use super::kind;
use super::media::Media;
use super::text_generation::deadline;
use crate::AiError;
use crate::backend::{Canvas, DrawRequest, PictureAnswer, PictureFormat, SentPicture, TextToImage};
use crate::request::{RunOutput, RunRequest};

/// Names of Cloudflare's that answer in FLUX's shape whatever model stands in.
const ANSWER_IN_JSON: [&str; 1] = ["@cf/black-forest-labs/flux-1-schnell"];
/// The longest prompt of FLUX, and of the others, whose encoders read no more than some 400 characters of it.
const MAX_FLUX_PROMPT: usize = 2048;
const MAX_PROMPT: usize = 65_536;
/// The most bytes of a picture that is sent.
const MAX_PICTURE: usize = 32 << 20;
const MAX_SIDE: u64 = 2048;
/// The smallest side, for models of usual size and for small ones.
const MIN_SIDE: u64 = 256;
const MIN_SMALL_SIDE: u64 = 64;
const MAX_GUIDANCE: f64 = 100.0;
const MAX_SEED: u64 = 1 << 53;

/// Answers one request.
pub(crate) async fn run(model: Arc<dyn TextToImage>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    let flux = model.answer() == PictureAnswer::Json || ANSWER_IN_JSON.contains(&request.model.as_str());
    let drawing =
        if flux { flux_request(&request)? } else { stable_diffusion_request(&mut request, model.canvas()).await? };
    let picture = model.draw(drawing).await?;
    if flux {
        return Ok(RunOutput::Json(json!({ "image": STANDARD.encode(&picture) })));
    }
    let body = stream::once(async move { Ok(picture) }.boxed());
    Ok(RunOutput::Stream { content_type: "image/png".to_owned(), body: Box::pin(body) })
}

fn flux_request(request: &RunRequest) -> Result<DrawRequest, AiError> {
    let inputs = Inputs(&request.inputs);
    Ok(DrawRequest {
        tenant: request.tenant.clone(),
        prompt: inputs.prompt(MAX_FLUX_PROMPT)?,
        negative_prompt: None,
        height: None,
        width: None,
        image: None,
        mask: None,
        steps: inputs.integer("steps", 1, 8)?.unwrap_or(4) as usize,
        strength: 1.0,
        guidance: None,
        seed: inputs.integer("seed", 0, MAX_SEED)?,
        format: PictureFormat::Jpeg,
        deadline: deadline(&request.options)?,
    })
}

async fn stable_diffusion_request(request: &mut RunRequest, canvas: Canvas) -> Result<DrawRequest, AiError> {
    let image = match picture(request, "image").await? {
        None => picture(request, "image_b64").await?,
        image => image,
    };
    let mask = picture(request, "mask").await?;
    if mask.is_some() && image.is_none() {
        return Err(AiError::bad_input("'/mask' needs '/image', the picture that it covers"));
    }
    let inputs = Inputs(&request.inputs);
    let least = if canvas.height.min(canvas.width) < MIN_SIDE as usize { MIN_SMALL_SIDE } else { MIN_SIDE };
    let side = |name: &str| inputs.side(name, least, canvas.unit);
    Ok(DrawRequest {
        tenant: request.tenant.clone(),
        prompt: inputs.prompt(MAX_PROMPT)?,
        negative_prompt: inputs.text("negative_prompt", MAX_PROMPT)?,
        height: side("height")?,
        width: side("width")?,
        image,
        mask,
        steps: inputs.integer("num_steps", 1, 20)?.unwrap_or(20) as usize,
        strength: inputs.number("strength", 0.0, 1.0)?.unwrap_or(1.0),
        guidance: inputs.number("guidance", 0.0, MAX_GUIDANCE)?,
        seed: inputs.integer("seed", 0, MAX_SEED)?,
        format: PictureFormat::Png,
        deadline: deadline(&request.options)?,
    })
}

async fn picture(request: &mut RunRequest, property: &'static str) -> Result<Option<SentPicture>, AiError> {
    let media = Media::take(request, property, MAX_PICTURE).await?;
    Ok(media.map(|media| SentPicture { property, data: media.data }))
}

struct Inputs<'a>(&'a Map<String, Value>);

impl Inputs<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn prompt(&self, most: usize) -> Result<String, AiError> {
        match self.text("prompt", most)? {
            None => Err(AiError::bad_input("required properties at '/' are 'prompt'")),
            Some(text) if text.is_empty() => Err(AiError::bad_input("Length of '/prompt' must be >= 1 not 0")),
            Some(text) => Ok(text),
        }
    }

    fn text(&self, name: &str, most: usize) -> Result<Option<String>, AiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= most || text.chars().count() <= most => Ok(Some(text.clone())),
            Some(Value::String(text)) => {
                let count = text.chars().count();
                Err(AiError::bad_input(format_args!("Length of '/{name}' must be <= {most} not {count}")))
            }
            Some(other) => {
                Err(AiError::bad_input(format_args!("Type of '/{name}' must be string not {}", kind(other))))
            }
        }
    }

    fn integer(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, AiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // 256.0 is an integer too, and some languages write every number so.
        let real = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=9e15).contains(n));
        match value.as_u64().or(real.map(|n| n as u64)) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(AiError::bad_input(format_args!("'/{name}' must be an integer from {least} to {most}"))),
        }
    }

    fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, AiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(AiError::bad_input(format_args!("'/{name}' must be a number from {least} to {most}"))),
        }
    }

    fn side(&self, name: &str, least: u64, unit: usize) -> Result<Option<usize>, AiError> {
        let unit = unit.max(8);
        match self.integer(name, least, MAX_SIDE)?.map(|side| side as usize) {
            Some(side) if !side.is_multiple_of(unit) => {
                Err(AiError::bad_input(format_args!("'/{name}' must be a multiple of {unit}, which {side} is not")))
            }
            side => Ok(side),
        }
    }
}
