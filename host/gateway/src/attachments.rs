//! Inputs that are bytes: what a cache and a log know of them.
//!
//! The cache knows them by a digest, so that a call with the same picture finds its answer. The log says how long they are
//! and of what type, and never holds them: they are of no use to who reads it, and may be anybody's voice or face.

use host_inference::Attachment;
use serde_json::{Value, json};

use crate::cache::{Key, digest};

/// Bytes that are hashed at once; more than that is for a thread that may block.
const AT_ONCE: usize = 64 << 10;

/// A digest of all of them with their places and types. None while the process ends, and then nobody reads the answer.
pub(crate) async fn digest_of(attachments: &[Attachment]) -> Option<Key> {
    if attachments.iter().map(|attachment| attachment.data.len()).sum::<usize>() <= AT_ONCE {
        return Some(digested(attachments));
    }
    let attachments = attachments.to_vec();
    tokio::task::spawn_blocking(move || digested(&attachments)).await.ok()
}

fn digested(attachments: &[Attachment]) -> Key {
    let mut sorted: Vec<&Attachment> = attachments.iter().collect();
    sorted.sort_by(|one, other| one.property.cmp(&other.property));
    digest(sorted.iter().flat_map(|attachment| {
        let content_type = attachment.content_type.as_deref().unwrap_or_default();
        [attachment.property.as_bytes(), content_type.as_bytes(), &attachment.data]
    }))
}

/// A body with a description in the place of each of its attachments.
pub(crate) fn described(query: &Value, attachments: &[Attachment]) -> Value {
    let mut query = query.clone();
    if let Value::Object(body) = &mut query {
        for Attachment { property, content_type, data } in attachments {
            let content_type = content_type.as_deref().map(crate::run::shortened);
            body.insert(property.clone(), json!({ "content_type": content_type, "size": data.len() }));
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(property: &str, data: &[u8]) -> Attachment {
        Attachment { property: property.into(), content_type: Some("image/png".into()), data: data.to_vec().into() }
    }

    #[tokio::test]
    async fn the_same_bytes_have_one_digest_wherever_it_is_made() {
        assert_eq!(digest_of(&[]).await, Some(digested(&[])));
        let (image, mask) = (attachment("image", b"a"), attachment("mask", b"b"));
        let both = digest_of(&[image.clone(), mask.clone()]).await;
        assert_eq!(both, digest_of(&[mask.clone(), image.clone()]).await);
        assert_ne!(both, digest_of(&[attachment("image", b"b"), attachment("mask", b"a")]).await);
        assert_ne!(both, digest_of(&[Attachment { content_type: None, ..image }, mask]).await);
        let long = [attachment("audio", &vec![7; AT_ONCE + 1])];
        assert_eq!(digest_of(&long).await, Some(digested(&long)));
    }

    #[test]
    fn a_log_says_what_bytes_were_and_not_which() {
        let described = described(&json!({ "prompt": "x" }), &[attachment("image", b"secret")]);
        assert_eq!(described, json!({ "prompt": "x", "image": { "content_type": "image/png", "size": 6 } }));
    }
}
