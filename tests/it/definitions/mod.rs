//! The definitions of the custom resources, as k3s/ and docs/ have them, are what the types give.

mod reference;
mod yaml;

use std::fs;
use std::path::Path;

use serde_json::Value;

const HEAD: &str = "\
# The custom resources. Made from src/resources by a test; `pullet crds` prints this.
#   kubectl apply -f k3s/crds.yaml
";

#[test]
fn the_definitions_of_k3s_are_those_of_the_types() {
    let documents: Vec<String> = definitions().iter().map(yaml::document).collect();
    is_current("k3s/crds.yaml", &format!("{HEAD}{}", documents.join("---\n")));
}

#[test]
fn the_reference_in_docs_is_that_of_the_types() {
    is_current("docs/resources.md", &reference::text(&definitions()));
}

/// A file of the repository holds this text; with `PULLET_WRITE` it does afterwards.
fn is_current(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("PULLET_WRITE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{file} is not what the types give; PULLET_WRITE=1 tests/run definitions:: writes it");
}

/// Those of the program, without what says nothing.
fn definitions() -> Vec<Value> {
    let mut definitions = pullet::resources::definition::definitions().unwrap();
    for definition in &mut definitions {
        tidy(definition);
        // What stands in a status was written: a default there would be said by nobody.
        let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        schema.as_object_mut().unwrap().remove("title");
        strip_defaults(&mut schema["properties"]["status"]);
    }
    definitions
}

/// Takes away what Kubernetes does not know or what is so without being said.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| match name.as_str() {
                "default" => !value.is_null(),
                "categories" | "shortNames" | "selectableFields" => value.as_array().is_none_or(|all| !all.is_empty()),
                _ => true,
            });
            match members.get("format").and_then(Value::as_str) {
                Some("uint16") => members.insert("format".to_owned(), "int32".into()),
                Some("uint64") => members.insert("format".to_owned(), "int64".into()),
                _ => None,
            };
            for bound in ["minimum", "maximum"] {
                if let Some(whole) = members.get(bound).and_then(Value::as_f64).filter(|bound| bound.fract() == 0.0) {
                    members.insert(bound.to_owned(), Value::from(format!("{whole:.0}").parse::<i64>().unwrap()));
                }
            }
            // An API server takes null only where it is listed, and a server-side apply stumbles over it there.
            if let Some(Value::Array(values)) = members.get_mut("enum") {
                values.retain(|value| !value.is_null());
                members.remove("nullable");
            }
            if let Some(Value::String(description)) = members.get_mut("description") {
                *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn strip_defaults(value: &mut Value) {
    if let Value::Object(members) = value {
        members.remove("default");
        members.values_mut().for_each(strip_defaults);
    }
}
