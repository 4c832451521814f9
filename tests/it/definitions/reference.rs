//! The definitions as a page for people.

use std::fmt::Write as _;

use serde_json::Value;

const HEAD: &str = "\
# The custom resources

Made from the types in `src/resources` by a test. `kubectl apply -f k3s/crds.yaml`, or what `pullet crds` prints, defines
them; `kubectl explain` then shows the same.

An API server from 1.25 also holds an Operation to its `targetRef`, `type` and `engine`. An older one does not know such
rules, and kubectl refuses to send it what it does not know: `pullet crds | grep -v x-kubernetes-validations` leaves them out.

| label or annotation | on | what it says |
|---|---|---|
| `app.vworkspace.io/managed-by=control-plane` | what a job applied | it is the control plane's |
| `app.vworkspace.io/cluster-id` | what a job applied | for which cluster; the agent reports on what carries its own |
| `app.vworkspace.io/application-instance` | what an application consists of | whose it is |
| `managed-by=vworkspace` | a namespace | jobs may use it |
| `ops.vworkspace.io/allowed-types` | a namespace | the types of operations it does, with commas between them |
| `ops.vworkspace.io/backup`, `…/restore`, `…/upgrade`, `…/migration`, `…/runcommand`, `…/runbook` | an ApplicationInstance | the engine that does it there |
| `ops.vworkspace.io/rotate-credentials` | a Cluster | forces a new registration unless it is empty or `false`, and is then removed |
";

/// The whole page.
pub(super) fn text(definitions: &[Value]) -> String {
    let mut text = HEAD.to_owned();
    for definition in definitions {
        let spec = &definition["spec"];
        let version = &spec["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let _ = write!(text, "\n## {}\n\n{}\n\n", word(&spec["names"]["kind"]), word(&schema["description"]));
        let place = if spec["scope"] == "Cluster" { "It belongs to no namespace" } else { "It lies in a namespace" };
        let _ = write!(text, "`apiVersion: {}/{}`. {place}", word(&spec["group"]), word(&version["name"]));
        if let Some(short) = spec["names"]["shortNames"][0].as_str() {
            let _ = write!(text, "; its short name is `{short}`");
        }
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        let columns: Vec<String> = columns.iter().map(|column| word(&column["name"])).collect();
        let _ = write!(text, ". `kubectl get` shows {}.\n\n", columns.join(", "));
        text.push_str("| field | what may be there | |\n|---|---|---|\n");
        for part in ["spec", "status"] {
            row(
                part,
                &schema["properties"][part],
                schema["required"].as_array().is_some_and(|all| all.contains(&part.into())),
                &mut text,
            );
        }
    }
    text
}

/// A field and all that are in it.
fn row(path: &str, schema: &Value, is_required: bool, text: &mut String) {
    let mut description = schema["description"].as_str().unwrap_or_default().to_owned();
    if is_required && path.contains('.') {
        description = format!("Required. {description}");
    }
    let _ = writeln!(text, "| `{path}` | {} | {} |", allowed(schema), cell(description.trim_end()));
    let items = &schema["items"];
    let (inner, path) =
        if items["type"] == "object" { (items, format!("{path}[]")) } else { (schema, path.to_owned()) };
    let required = inner["required"].as_array().cloned().unwrap_or_default();
    for (name, member) in inner["properties"].as_object().into_iter().flatten() {
        row(&format!("{path}.{name}"), member, required.contains(&Value::from(name.as_str())), text);
    }
}

/// The type and the bounds.
fn allowed(schema: &Value) -> String {
    let number = |name: &str| schema.get(name).and_then(Value::as_u64);
    let mut parts = Vec::new();
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        parts.push(values.join(", "));
    } else {
        parts.push(match schema["type"].as_str().unwrap_or_default() {
            "array" if schema["items"]["type"] == "object" => "list of objects".to_owned(),
            "array" => format!("list of: {}", allowed(&schema["items"])),
            "object" if schema["x-kubernetes-preserve-unknown-fields"] == true => "any object".to_owned(),
            "string" if schema["format"] == "date-time" => "time, RFC 3339".to_owned(),
            "string" if schema.get("pattern").is_some() => {
                format!("text `{}`", cell(schema["pattern"].as_str().unwrap_or_default()))
            }
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "boolean" => "`true`, `false`".to_owned(),
            other => other.to_owned(),
        });
    }
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => parts.push(format!("{least} to {most}")),
        (Some(least), None) if least > 0 => parts.push(format!("{least} or more")),
        _ => {}
    }
    match (number("minLength"), number("maxLength")) {
        (Some(least), Some(most)) => parts.push(format!("{least} to {most} characters")),
        (None, Some(most)) => parts.push(format!("at most {most} characters")),
        _ => {}
    }
    if let Some(most) = number("maxItems") {
        parts.push(format!("at most {most}"));
    }
    if let Some(default) = schema.get("default") {
        parts.push(format!("default `{}`", default.as_str().map_or_else(|| default.to_string(), str::to_owned)));
    }
    parts.join("; ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
