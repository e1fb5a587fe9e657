//! Pictures and sound in a request's inputs: bytes, in each of the forms that programs send them in.
//!
//! Sixteen megabytes of base64 take some ten milliseconds to read, and as many numbers more, so what is long is read on a
//! thread that may be kept so long, and other requests go on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use crate::AiError;
use crate::request::RunRequest;

/// Texts of more bytes, and arrays of more numbers, are read on a thread that may block.
const AT_ONCE: usize = 64 << 10;

/// Bytes, and what they are said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Media {
    /// The bytes.
    pub(crate) data: Bytes,
    /// The media type, where the caller says it.
    pub(crate) content_type: Option<String>,
}

impl Media {
    /// Takes the bytes of `property` out of `request`: an attachment of that name or, where the whole input was bytes,
    /// of none; an array of numbers; base64, also as a `data:` URL; or `{body, contentType}` with one of the latter two
    /// in `body`. None when the property is absent.
    ///
    /// # Errors
    /// 5006 naming the property when it is something else, empty, or longer than `most` bytes; 5004 for broken base64.
    pub(crate) async fn take(
        request: &mut RunRequest,
        property: &'static str,
        most: usize,
    ) -> Result<Option<Media>, AiError> {
        let attached = |name: &str| request.attachments.iter().position(|attachment| attachment.property == name);
        if let Some(at) = attached(property).or_else(|| attached("")) {
            let attachment = request.attachments.swap_remove(at);
            let media = Media { data: attachment.data, content_type: attachment.content_type };
            return media.bounded(property, most).map(Some);
        }
        match request.inputs.remove(property) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let media = if length(&value) > AT_ONCE {
                    let read = tokio::task::spawn_blocking(move || Self::read(value, property, most));
                    read.await.map_err(AiError::internal)?
                } else {
                    Self::read(value, property, most)
                };
                media?.bounded(property, most).map(Some)
            }
        }
    }

    fn read(value: Value, property: &str, most: usize) -> Result<Media, AiError> {
        match value {
            Value::Array(numbers) => {
                if numbers.len() > most {
                    return Err(too_long(property, most));
                }
                let byte = |(index, number): (usize, &Value)| {
                    number.as_u64().and_then(|number| u8::try_from(number).ok()).ok_or_else(|| {
                        AiError::bad_input(format_args!("'/{property}/{index}' must be a whole number from 0 to 255"))
                    })
                };
                let data: Vec<u8> = numbers.iter().enumerate().map(byte).collect::<Result<_, _>>()?;
                Ok(Media { data: data.into(), content_type: None })
            }
            Value::String(text) => {
                let url = text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
                let (content_type, encoded) = match url {
                    Some((kind, data)) => (Some(kind.to_owned()), data),
                    None => (None, text.as_str()),
                };
                // Four letters are three bytes, the last of which may be filling.
                if encoded.trim().len() / 4 * 3 > most.saturating_add(2) {
                    return Err(too_long(property, most));
                }
                let data = STANDARD.decode(encoded.trim()).map_err(|_| AiError::bad_base64("string"))?;
                Ok(Media { data: data.into(), content_type })
            }
            Value::Object(mut map) => {
                let body = map.remove("body").filter(|body| !body.is_object());
                let body = body.ok_or_else(|| {
                    AiError::bad_input(format_args!("'/{property}/body' must be base64 or an array of bytes"))
                })?;
                let media = Self::read(body, property, most)?;
                let said = map.get("contentType").and_then(Value::as_str).map(str::to_owned);
                Ok(Media { content_type: said.or(media.content_type), ..media })
            }
            other => Err(AiError::bad_input(format_args!(
                "Type of '/{property}' must be one of string, array, object not {}",
                super::kind(&other)
            ))),
        }
    }

    fn bounded(self, property: &str, most: usize) -> Result<Media, AiError> {
        if self.data.is_empty() {
            return Err(AiError::bad_input(format_args!("'/{property}' is empty")));
        }
        if self.data.len() > most { Err(too_long(property, most)) } else { Ok(self) }
    }
}

/// How many letters or numbers there are to read.
fn length(value: &Value) -> usize {
    match value {
        Value::Array(numbers) => numbers.len(),
        Value::String(text) => text.len(),
        Value::Object(map) => map.get("body").map_or(0, |body| if body.is_object() { 0 } else { length(body) }),
        _ => 0,
    }
}

fn too_long(property: &str, most: usize) -> AiError {
    AiError::bad_input(format_args!("'/{property}' has more than {most} bytes"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::request::Attachment;

    fn request(inputs: Value) -> RunRequest {
        let Value::Object(inputs) = inputs else { panic!("inputs are an object") };
        let (tenant, attachments, options) = ("t".into(), Vec::new(), Map::new());
        RunRequest { tenant, model: "m".into(), inputs, attachments, options }
    }

    /// What is taken where four bytes are the most.
    async fn taken(inputs: Value) -> Result<Option<Media>, AiError> {
        Media::take(&mut request(inputs), "audio", 4).await
    }

    #[tokio::test]
    async fn every_form_gives_the_same_bytes() {
        let forms = [
            json!({ "audio": [1, 2, 255] }),
            json!({ "audio": "AQL/" }),
            json!({ "audio": "data:audio/wav;base64,AQL/" }),
            json!({ "audio": { "body": "AQL/", "contentType": "audio/wav" } }),
            json!({ "audio": { "body": [1, 2, 255] } }),
        ];
        for form in forms {
            assert_eq!(taken(form.clone()).await.unwrap().unwrap().data[..], [1, 2, 255], "{form}");
        }
        for property in ["audio", ""] {
            let mut request = request(json!({}));
            let (data, content_type) = (Bytes::from_static(&[1, 2, 255]), Some("audio/wav".to_owned()));
            request.attachments.push(Attachment { property: property.into(), content_type, data });
            let media = Media::take(&mut request, "audio", 4).await.unwrap().unwrap();
            assert_eq!((&media.data[..], media.content_type.as_deref()), (&[1, 2, 255][..], Some("audio/wav")));
        }
        assert_eq!(taken(json!({ "audio": null })).await, Ok(None));
        assert_eq!(taken(json!({})).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_not_bytes_is_refused_by_name() {
        for (input, code) in [
            (json!([1, 256]), 5006),
            (json!([1, -1]), 5006),
            (json!([1, 1.5]), 5006),
            (json!([]), 5006),
            (json!(""), 5006),
            (json!(true), 5006),
            (json!([0, 0, 0, 0, 0]), 5006),
            (json!("AAAAAAA="), 5006),
            (json!({ "body": { "body": "AQL/" } }), 5006),
            (json!({}), 5006),
            (json!("%%%"), 5004),
        ] {
            let error = taken(json!({ "audio": input })).await.unwrap_err();
            assert!(error.code == code && (code == 5004 || error.message.contains("'/audio")), "{input}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_long_is_read_like_what_is_short() {
        let data: Vec<u8> = (0..3 * AT_ONCE).map(|at| (at % 251) as u8).collect();
        for value in [json!(STANDARD.encode(&data)), json!(data), json!({ "body": STANDARD.encode(&data) })] {
            let taken = Media::take(&mut request(json!({ "audio": value })), "audio", data.len()).await;
            assert_eq!(taken.unwrap().unwrap().data[..], data);
        }
        let most = data.len() - 1;
        let error = Media::take(&mut request(json!({ "audio": STANDARD.encode(&data) })), "audio", most).await;
        assert_eq!(error.unwrap_err().message, too_long("audio", most).message);
        let broken = "%".repeat(2 * AT_ONCE);
        let error = Media::take(&mut request(json!({ "audio": broken })), "audio", 1 << 20).await;
        assert_eq!(error.unwrap_err().code, 5004);
    }

    #[test]
    fn what_is_long_holds_up_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let data = vec![7; 3 * AT_ONCE];
            // The only thread for long work is held, so what is ready all the same was read here.
            let (held, let_go) = std::sync::mpsc::channel::<()>();
            let holding = tokio::task::spawn_blocking(move || let_go.recv());
            let mut request = request(json!({ "audio": STANDARD.encode(&data) }));
            let mut taking = std::pin::pin!(Media::take(&mut request, "audio", data.len()));
            assert!(futures::poll!(&mut taking).is_pending());
            drop(held);
            assert_eq!(taking.await.unwrap().unwrap().data[..], data);
            assert!(holding.await.unwrap().is_err());
        });
    }
}
