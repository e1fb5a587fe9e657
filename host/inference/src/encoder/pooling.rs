//! From token states to one vector, and what sentence-transformers says about it beside a checkpoint.

use std::path::Path;

use serde_json::Value;

use crate::backend::Pooling;
use crate::store::read_text;

/// Both files have a few hundred bytes.
const BYTES: u64 = 1 << 20;

/// One vector of length 1.
pub(super) fn pool(states: &[f32], hidden: usize, pooling: Pooling) -> Vec<f32> {
    let mut vector = vec![0.0; hidden];
    let rows = match pooling {
        Pooling::Cls => states.get(..hidden).unwrap_or_default(),
        Pooling::Last => states.len().checked_sub(hidden).map_or(&[][..], |start| &states[start..]),
        Pooling::Mean => states,
    };
    for row in rows.chunks_exact(hidden) {
        vector.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    // The mean's divisor is a factor like any other and falls to the normalization.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    vector
}

/// The pooling that a checkpoint asks for: its `modules.json` lists what follows the encoder, and the pooling's folder
/// has a `config.json`. None where there is no word about it. Vectors are normalized whether it asks for that or not.
///
/// # Errors
/// What the files ask for that is not done here.
pub(crate) fn of_checkpoint(folder: &Path) -> Result<Option<Pooling>, String> {
    let mut pooling = "1_Pooling".to_owned();
    if let Some(modules) = json(&folder.join("modules.json"))? {
        let modules = modules.as_array().ok_or("modules.json is no list")?;
        for module in modules {
            let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
            let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
            match kind.rsplit('.').next() {
                Some("Transformer" | "Normalize") => {}
                Some("Pooling") if plain(path) => path.clone_into(&mut pooling),
                _ => return Err(format!("modules.json asks for {kind:.80?}, which is not known here")),
            }
        }
    }
    let Some(config) = json(&folder.join(&pooling).join("config.json"))? else { return Ok(None) };
    let asks = |mode: &str| config.get(format!("pooling_mode_{mode}")).and_then(Value::as_bool) == Some(true);
    let unknown = ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"].into_iter().find(|mode| asks(mode));
    let known = [("cls_token", Pooling::Cls), ("mean_tokens", Pooling::Mean), ("lasttoken", Pooling::Last)];
    let asked: Vec<Pooling> = known.into_iter().filter(|(mode, _)| asks(mode)).map(|(_, pooling)| pooling).collect();
    match (asked.as_slice(), unknown) {
        ([one], None) => Ok(Some(*one)),
        ([], None) => Ok(None),
        (_, Some(mode)) => Err(format!("{pooling}/config.json asks for pooling_mode_{mode}, which is not known here")),
        (_, None) => Err(format!("{pooling}/config.json asks for several vectors beside each other")),
    }
}

fn plain(path: &str) -> bool {
    !path.is_empty() && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn json(path: &Path) -> Result<Option<Value>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(path, BYTES).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map(Some).map_err(|error| format!("{} is no JSON: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn vectors_have_length_one() {
        let states = [3.0, 4.0, 0.0, 5.0];
        assert_eq!(pool(&states, 2, Pooling::Cls), [0.6, 0.8]);
        assert_eq!(pool(&states, 2, Pooling::Last), [0.0, 1.0]);
        assert_eq!(pool(&states, 2, Pooling::Mean), pool(&[3.0, 9.0], 2, Pooling::Cls));
        assert_eq!(pool(&[], 2, Pooling::Last), [0.0, 0.0]);
    }

    #[test]
    fn the_files_beside_a_checkpoint_tell_the_pooling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(of_checkpoint(path), Ok(None));
        let write = |file: &str, value: Value| {
            std::fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            std::fs::write(path.join(file), value.to_string()).unwrap();
        };
        write("1_Pooling/config.json", json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false }));
        assert_eq!(of_checkpoint(path), Ok(Some(Pooling::Cls)));
        write("1_Pooling/config.json", json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true }));
        assert!(of_checkpoint(path).is_err());
        write("1_Pooling/config.json", json!({ "pooling_mode_max_tokens": true }));
        assert!(of_checkpoint(path).unwrap_err().contains("pooling_mode_max_tokens"));
        write("last/config.json", json!({ "pooling_mode_lasttoken": true }));
        let module =
            |kind: &str, path: &str| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
        write("modules.json", json!([module("Transformer", ""), module("Pooling", "last"), module("Normalize", "2")]));
        assert_eq!(of_checkpoint(path), Ok(Some(Pooling::Last)));
        write("modules.json", json!([module("Transformer", ""), module("Dense", "2_Dense")]));
        assert!(of_checkpoint(path).unwrap_err().contains("Dense"));
        write("modules.json", json!([module("Pooling", "../x")]));
        assert!(of_checkpoint(path).is_err());
    }
}
