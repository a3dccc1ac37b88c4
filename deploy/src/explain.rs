//! `hardway explain pod`: asks the scheduler where a pod could go, and shows why.

use std::path::Path;

use client::{Client, ClientConfig};
use serde_json::Value;

/// The explanation of a pod, in lines.
///
/// # Errors
/// In words, when the scheduler cannot be asked or does not know the pod.
pub async fn pod(kubeconfig: &Path, scheduler: &str, namespace: &str, name: &str) -> Result<Vec<String>, String> {
    let mut config = ClientConfig::from_kubeconfig(kubeconfig, "hardway").map_err(|e| e.to_string())?;
    scheduler.clone_into(&mut config.access.server);
    let path = format!("/debug/explain?namespace={namespace}&pod={name}");
    let request = http::Request::get(path).body(bytes::Bytes::new()).map_err(|e| e.to_string())?;
    let client = Client::new(config).map_err(|e| e.to_string())?;
    let answer = client.raw(request).await.map_err(|e| e.to_string())?;
    Ok(lines(&serde_json::from_slice(answer.body()).map_err(|e| e.to_string())?))
}

/// One line about the pod and one about each node, the best first.
fn lines(answer: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = vec![format!("{}: {}", text(&answer["pod"]), text(&answer["state"]))];
    out.extend(answer["message"].as_str().map(|why| format!("no node is looked at: {why}")));
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = nodes.iter().map(|n| text(&n["name"]).len()).max().unwrap_or(0).max(4);
    if !nodes.is_empty() {
        out.push(format!("{:width$}  SCORE  WHY", "NODE"));
    }
    for node in nodes {
        let (score, why) = match node["scores"].as_object() {
            Some(scores) => {
                let parts: Vec<String> = scores.iter().map(|(plugin, score)| format!("{plugin} {score}")).collect();
                (node["score"].to_string(), parts.join(", "))
            }
            None => {
                let reasons: Vec<String> = node["reasons"].as_array().into_iter().flatten().map(text).collect();
                let help = if node["preemptionMayHelp"] == true { " (preemption may help)" } else { "" };
                ("-".to_owned(), format!("{}: {}{help}", text(&node["rejectedBy"]), reasons.join(", ")))
            }
        };
        out.push(format!("{:width$}  {score:>5}  {why}", text(&node["name"])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_scores_and_reasons() {
        let answer = json!({"pod": "n/p", "state": "waits for a change (2 attempts)", "nodes": [
            {"name": "node-1", "score": 300, "scores": {"ImageLocality": 0, "NodeAffinity": 200}},
            {"name": "b", "rejectedBy": "NodeResourcesFit", "reasons": ["Insufficient cpu"], "preemptionMayHelp": true},
        ]});
        let want = [
            "n/p: waits for a change (2 attempts)",
            "NODE    SCORE  WHY",
            "node-1    300  ImageLocality 0, NodeAffinity 200",
            "b           -  NodeResourcesFit: Insufficient cpu (preemption may help)",
        ];
        assert_eq!(lines(&answer), want);
    }
}
