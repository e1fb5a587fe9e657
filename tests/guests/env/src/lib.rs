//! Shows what it was granted, for the tests of bindings.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | `{bindings: {NAME: kind}, vars: {NAME: value}, secrets: {NAME: value}}` |
//! | `/json?name=N` | the variable N, decoded |
//! | `/missing?name=N&kind=ai\|text\|secret\|json` | the message for a binding that is not granted |

use host_sdk::*;
use serde_json::{Map, Value, json};

#[fetch]
async fn main(req: Request, env: Env) -> Result<Response> {
    let url = req.url()?;
    let parameter = |name: &str| {
        let found = url.query_pairs().find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    match url.path() {
        "/" => everything(&env),
        "/json" => Response::from_json(&env.object_var::<Value>(&parameter("name"))?),
        "/missing" => {
            let name = parameter("name");
            let missing = match parameter("kind").as_str() {
                "ai" => env.ai(&name).err(),
                "secret" => env.secret(&name).err(),
                "json" => env.object_var::<Value>(&name).err(),
                _ => env.var(&name).err(),
            };
            Response::ok(missing.map_or_else(|| "granted".into(), |error| error.to_string()))
        }
        other => Response::error(format!("no such path: {other}"), 404),
    }
}

fn everything(env: &Env) -> Result<Response> {
    let (mut bindings, mut vars, mut secrets) = (Map::new(), Map::new(), Map::new());
    for (name, kind) in env.bindings() {
        let shown = match kind {
            BindingKind::Text => {
                vars.insert(name.clone(), json!(env.var(&name)?.to_string()));
                "text"
            }
            BindingKind::Json => {
                vars.insert(name.clone(), env.object_var(&name)?);
                "json"
            }
            BindingKind::Secret => {
                secrets.insert(name.clone(), json!(env.secret(&name)?.to_string()));
                "secret"
            }
            BindingKind::Ai => "ai",
            _ => "other",
        };
        bindings.insert(name, json!(shown));
    }
    Response::from_json(&json!({ "bindings": bindings, "vars": vars, "secrets": secrets }))
}
