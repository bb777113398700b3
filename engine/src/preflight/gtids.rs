//! GTIDs of one server that another one calls executed though the first does not know them.
//!
//! That is so after `RESET BINARY LOGS AND GTIDS` at one node only: it gives out the same numbers
//! again, and DDL under them is passed over by the other server without a word.

use super::Finding;
use super::facts::NodeFacts;
use super::session::Session;

/// Those of `executed` (a GTID set) that the server with this UUID gave out.
fn given_out_by(uuid: &str, executed: &str) -> String {
    let of_server = |part: &&str| {
        part.split_once(':')
            .is_some_and(|(of, _)| of.eq_ignore_ascii_case(uuid))
    };
    executed
        .split(',')
        .map(str::trim)
        .filter(of_server)
        .collect::<Vec<_>>()
        .join(",")
}

/// What to ask the server with this UUID about what another one calls executed; `None` where that
/// has nothing of it. The answer is what it does not know, empty for nothing.
///
/// The other server's set has to be read before: the first then knows all of it, whatever is
/// replicated meanwhile.
pub(crate) fn question(uuid: &str, executed: &str) -> Option<String> {
    let given_out = given_out_by(uuid, executed);
    // Hexadecimal digits, tags and punctuation: nothing that a literal would have to escape.
    let plain = given_out
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b',' | b'_'));
    (!given_out.is_empty() && plain)
        .then(|| format!("SELECT GTID_SUBTRACT('{given_out}', @@GLOBAL.gtid_executed)"))
}

/// What is wrong when `node` does not know these GTIDs of its own which `other` has, and the
/// statement that mends it.
pub(crate) fn unknown(node: &str, other: &str, missing: &str) -> (String, String) {
    let missing: String = missing.split_whitespace().collect();
    (
        format!(
            "gtid_executed of node {other} has {missing}, which node {node} gave out once and does \
             not know any more (RESET BINARY LOGS AND GTIDS, or a restored backup): it will give \
             these numbers out again, and node {other} would then pass over its DDL without a word"
        ),
        format!(
            "at node {node}: SET GLOBAL gtid_purged = '+{missing}'; so that these numbers are not \
             given out again"
        ),
    )
}

/// Asks every server about what the others call executed.
pub(super) async fn findings(looked: &mut [(Session, NodeFacts)]) -> Vec<Finding> {
    let subject = "gtid.executed";
    let unasked = |error| Finding::fail(subject, format!("cannot be asked: {error}"));
    let mut findings = Vec::new();
    let mut executed: Vec<(String, String)> = Vec::new();
    for (session, facts) in looked.iter_mut().filter(|(_, facts)| !facts.maria) {
        // SHOW VARIABLES would cut it off after 1024 characters.
        match session.value("SELECT @@GLOBAL.gtid_executed").await {
            Ok(set) => executed.push((facts.node.clone(), set.unwrap_or_default())),
            Err(error) => findings.push(unasked(error).on(&facts.node)),
        }
    }
    for (session, facts) in looked.iter_mut().filter(|(_, facts)| !facts.maria) {
        let uuid = facts.variable("server_uuid");
        for (other, executed) in executed.iter().filter(|(other, _)| *other != facts.node) {
            let Some(question) = question(uuid, executed) else {
                continue;
            };
            let missing = session.value(&question).await;
            let finding = match missing.map(|missing| missing.filter(|set| !set.is_empty())) {
                Ok(Some(missing)) => {
                    let (message, remedy) = unknown(&facts.node, other, &missing);
                    Finding::fail(subject, message).remedy(remedy)
                }
                Ok(None) => {
                    Finding::pass(subject, format!("knows all that node {other} has of it"))
                }
                Err(error) => unasked(error),
            };
            findings.push(finding.on(&facts.node));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const TWO: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn only_what_the_server_gave_out_is_asked_for() {
        let executed = format!(
            "{ONE}:1-5:11-18:tag:1,\n{TWO}:1-3,\n{}:tag2:7",
            ONE.to_uppercase()
        );
        assert_eq!(
            question(ONE, &executed).unwrap(),
            format!(
                "SELECT GTID_SUBTRACT('{ONE}:1-5:11-18:tag:1,{}:tag2:7', @@GLOBAL.gtid_executed)",
                ONE.to_uppercase()
            )
        );
        assert_eq!(question(ONE, &format!("{TWO}:1-3")), None);
        assert_eq!(question(ONE, ""), None);
    }

    #[test]
    fn the_remedy_is_one_statement() {
        let (message, remedy) = unknown("a", "b", &format!("{ONE}:1-5,\n{ONE}:tag:1"));
        assert!(message.contains("node b"), "{message}");
        assert!(
            remedy.contains(&format!("gtid_purged = '+{ONE}:1-5,{ONE}:tag:1';")),
            "{remedy}"
        );
    }
}
