//! Engines of one cluster go by the same rules, or not at all: each writes down at its own node what
//! it goes by, and each link reads what the other one does.
//!
//! Two engines that settle by different policies would make the nodes differ at the first conflict.

use crate::config::Config;
use crate::connection::{NodeConnection, quote_identifier, quote_string};
use crate::error::{Error, Result};
use crate::own_schema::ENGINE;

/// Writes down what the engine of `node` goes by.
///
/// # Errors
/// The connection's.
pub(crate) async fn publish(
    connection: &mut NodeConnection,
    config: &Config,
    node: &str,
) -> Result<()> {
    let sql = format!(
        "REPLACE INTO {}.{ENGINE} (node, digest, agreed, version, started_at) VALUES ({}, {}, {}, {}, \
         NOW(6))",
        quote_identifier(&config.engine.schema),
        quote_string(node),
        quote_string(&config.digest()),
        quote_string(&config.agreed().to_string()),
        quote_string(env!("CARGO_PKG_VERSION")),
    );
    connection
        .execute(sql, "writing down the engine's rules")
        .await?;
    Ok(())
}

/// Refuses to go on with an engine of `node` that goes by other rules. An engine that never ran, or
/// ran in a version that did not write its rules down, says nothing.
///
/// # Errors
/// [`Error::Preflight`] naming the setting; the connection's.
pub(crate) async fn compare(
    connection: &mut NodeConnection,
    config: &Config,
    node: &str,
) -> Result<()> {
    let sql = format!(
        "SELECT digest, agreed FROM {}.{ENGINE} WHERE node = {}",
        quote_identifier(&config.engine.schema),
        quote_string(node)
    );
    let context = "reading the other engine's rules";
    let theirs: Option<(String, String)> = match connection.first(&sql, context).await {
        Ok(theirs) => theirs,
        Err(Error::Server {
            code: 1049 | 1146, ..
        }) => None,
        Err(error) => return Err(error),
    };
    let Some((digest, agreed)) = theirs else {
        return Ok(());
    };
    if digest == config.digest() {
        return Ok(());
    }
    let differs = differences(&config.agreed(), &agreed);
    Err(Error::Apart(format!(
        "the engine of node {node} was started with another config file ({differs}; digest {digest}, \
         here {}): engines that go by different rules would make the nodes differ. Use the same file \
         on every host and restart the engine that has the old one. To change how conflicts are \
         settled, first stop the writers, run `twinlog wait`, and stop both engines",
        config.digest()
    )))
}

/// Names of the settings that differ, with both values.
fn differences(ours: &serde_json::Value, theirs: &str) -> String {
    let theirs: serde_json::Value = serde_json::from_str(theirs).unwrap_or_default();
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        return "it cannot be told in what".to_owned();
    };
    let said: Vec<String> = ours
        .iter()
        .filter(|(name, value)| theirs.get(*name) != Some(*value))
        .map(|(name, value)| {
            let other = theirs
                .get(name)
                .map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!("{name} is {other} there and {value} here")
        })
        .collect();
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let ours = serde_json::json!({"ddl": "halt", "nodes": ["a", "b"]});
        let said = differences(&ours, r#"{"ddl": "replicate", "nodes": ["a", "b"]}"#);
        assert_eq!(said, "ddl is \"replicate\" there and \"halt\" here");
    }
}
