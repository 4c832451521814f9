//! What the policy reads of a manifest's `spec`, member by member and without a tree.
//!
//! A member that is judged may be there once. One that differs from it in case alone is refused: readers that do not
//! care about case would act on what was not looked at.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use super::Refusal;
use super::chart::Chart;
use crate::protocol::{APPLICATION_INSTANCE, Manifest, OPERATION, group_of};

/// The spec of an ApplicationInstance.
pub(super) struct Instance<'a> {
    pub(super) catalog_id: Option<Cow<'a, str>>,
    pub(super) chart: Option<ChartText<'a>>,
    /// `mode: placeholder`: nothing is installed.
    pub(super) is_placeholder: bool,
    /// `values.inline`, an object.
    pub(super) inline: Option<&'a RawValue>,
}

/// `spec.chart`; a member that is missing is empty.
#[derive(Default)]
pub(super) struct ChartText<'a> {
    source_type: Cow<'a, str>,
    url: Cow<'a, str>,
    name: Cow<'a, str>,
    version: Cow<'a, str>,
}

/// The spec of an Operation.
pub(super) struct Operation<'a> {
    pub(super) operation_type: Option<Cow<'a, str>>,
}

impl<'a> Instance<'a> {
    /// None where the manifest is of another kind.
    pub(super) fn read(manifest: &Manifest<'a>) -> Result<Option<Self>, Refusal> {
        if !is(manifest, APPLICATION_INSTANCE) {
            return Ok(None);
        }
        let [app, chart, mode, values] =
            members(manifest.member("spec"), "spec", ["appRef", "chart", "mode", "values"])?;
        let [catalog_id] = members(app, "spec.appRef", ["catalogId"])?;
        let [inline] = members(values, "spec.values", ["inline"])?;
        members(inline, "spec.values.inline", [])?;
        Ok(Some(Self {
            catalog_id: text(catalog_id, "spec.appRef.catalogId")?.filter(|id| !id.is_empty()),
            chart: chart.map(ChartText::read).transpose()?,
            is_placeholder: text(mode, "spec.mode")?.is_some_and(|mode| mode == "placeholder"),
            inline,
        }))
    }
}

impl<'a> ChartText<'a> {
    fn read(chart: &'a RawValue) -> Result<Self, Refusal> {
        let [source_type, url, name, version] =
            members(Some(chart), "spec.chart", ["sourceType", "url", "name", "version"])?;
        Ok(Self {
            source_type: text(source_type, "spec.chart.sourceType")?.unwrap_or_default(),
            url: text(url, "spec.chart.url")?.unwrap_or_default(),
            name: text(name, "spec.chart.name")?.unwrap_or_default(),
            version: text(version, "spec.chart.version")?.unwrap_or_default(),
        })
    }

    pub(super) fn chart(&self) -> Chart<'_> {
        Chart { source_type: &self.source_type, url: &self.url, name: &self.name, version: &self.version }
    }
}

impl<'a> Operation<'a> {
    /// None where the manifest is of another kind.
    pub(super) fn read(manifest: &Manifest<'a>) -> Result<Option<Self>, Refusal> {
        if !is(manifest, OPERATION) {
            return Ok(None);
        }
        let [operation_type] = members(manifest.member("spec"), "spec", ["type"])?;
        Ok(Some(Self { operation_type: text(operation_type, "spec.type")? }))
    }
}

/// `spec.release.namespace` and `spec.targetRef.namespace`: where an object reaches beyond its own.
pub(super) fn further_namespaces<'a>(manifest: &Manifest<'a>) -> Result<Vec<Cow<'a, str>>, Refusal> {
    // Only these two kinds have such members; a ConfigMap has no spec, and that of a Deployment has none.
    if !is(manifest, APPLICATION_INSTANCE) && !is(manifest, OPERATION) {
        return Ok(Vec::new());
    }
    let [release, target] = members(manifest.member("spec"), "spec", ["release", "targetRef"])?;
    let [release] = members(release, "spec.release", ["namespace"])?;
    let [target] = members(target, "spec.targetRef", ["namespace"])?;
    let named = [text(release, "spec.release.namespace")?, text(target, "spec.targetRef.namespace")?];
    Ok(named.into_iter().flatten().filter(|namespace| !namespace.is_empty()).collect())
}

/// Whatever its version.
pub(super) fn is(manifest: &Manifest<'_>, (version, kind): (&str, &str)) -> bool {
    manifest.kind == kind && group_of(&manifest.api_version) == group_of(version)
}

/// The named members of an object that may be missing or `null`, as they may be themselves.
fn members<'a, const N: usize>(
    object: Option<&'a RawValue>,
    path: &'static str,
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], Refusal> {
    struct Members<const N: usize>([&'static str; N]);

    impl<'de, const N: usize> Visitor<'de> for Members<N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found: [Option<Option<&'de RawValue>>; N] = [None; N];
            while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
                let value: &'de RawValue = map.next_value()?;
                for (known, place) in self.0.iter().zip(&mut found) {
                    if name == *known && place.is_none() {
                        *place = Some(Some(value).filter(|value| value.get() != "null"));
                    } else if name.eq_ignore_ascii_case(known) {
                        return Err(de::Error::custom("twice"));
                    }
                }
            }
            Ok(found.map(Option::flatten))
        }
    }

    match object.map(RawValue::get) {
        None | Some("null") => Ok([None; N]),
        Some(text) => serde_json::Deserializer::from_str(text)
            .deserialize_map(Members(names))
            .map_err(|_| Refusal::Unreadable(path)),
    }
}

/// A text that may be missing.
fn text<'a>(value: Option<&'a RawValue>, path: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let read = |value: &'a RawValue| serde_json::from_str::<Name<'a>>(value.get());
    Ok(value.map(read).transpose().map_err(|_| Refusal::Unreadable(path))?.map(|name| name.0))
}

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
