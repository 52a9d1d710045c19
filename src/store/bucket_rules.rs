//! Lifecycle rules of a bucket, read from S3's XML and Google's JSON: which objects it deletes by itself.

use serde::Deserialize;

use crate::error::{Error, Result};

/// One rule that is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketRule {
    /// Its name; Google's have none.
    pub id: String,
    /// The keys it is about begin so.
    pub prefix: String,
    /// When it deletes an object's current version, as the end of a sentence; none when it never does.
    pub deletes: Option<String>,
    /// Whether it throws away uploads that nobody completes.
    pub aborts_uploads: bool,
    /// Whether it asks for more than a prefix: tags, sizes, suffixes, storage classes.
    pub is_narrower: bool,
}

/// S3's `LifecycleConfiguration` (API reference of `GetBucketLifecycleConfiguration`).
#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "Rule", default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    #[serde(rename = "ID")]
    id: Option<String>,
    status: String,
    /// Where older rules have it.
    prefix: Option<String>,
    filter: Option<Filter>,
    expiration: Option<Expiration>,
    abort_incomplete_multipart_upload: Option<Abort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Filter {
    prefix: Option<String>,
    and: Option<And>,
    tag: Vec<Tag>,
    object_size_greater_than: Option<u64>,
    object_size_less_than: Option<u64>,
}

/// Several conditions. A type of its own, not a filter in a filter: the XML reader knows no depth that is too deep, and 64 KiB
/// of nested elements are more than a stack holds.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct And {
    prefix: Option<String>,
    tag: Vec<Tag>,
    object_size_greater_than: Option<u64>,
    object_size_less_than: Option<u64>,
}

/// Its name and value do not matter here.
#[derive(Deserialize)]
struct Tag {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Expiration {
    days: Option<u64>,
    date: Option<String>,
}

#[derive(Deserialize)]
struct Abort {}

impl Filter {
    fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref().or_else(|| self.and.as_ref()?.prefix.as_deref())
    }

    fn is_narrower(&self) -> bool {
        !self.tag.is_empty()
            || self.object_size_greater_than.is_some()
            || self.object_size_less_than.is_some()
            || self.and.as_ref().is_some_and(And::is_narrower)
    }
}

impl And {
    fn is_narrower(&self) -> bool {
        !self.tag.is_empty() || self.object_size_greater_than.is_some() || self.object_size_less_than.is_some()
    }
}

/// Google's bucket resource with `fields=lifecycle`.
#[derive(Deserialize)]
struct GoogleBucket {
    #[serde(default)]
    lifecycle: GoogleLifecycle,
}

#[derive(Deserialize, Default)]
struct GoogleLifecycle {
    #[serde(default)]
    rule: Vec<GoogleRule>,
}

#[derive(Deserialize)]
struct GoogleRule {
    action: GoogleAction,
    #[serde(default)]
    condition: GoogleCondition,
}

#[derive(Deserialize)]
struct GoogleAction {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct GoogleCondition {
    age: Option<u64>,
    created_before: Option<String>,
    is_live: Option<bool>,
    num_newer_versions: Option<u64>,
    days_since_noncurrent_time: Option<u64>,
    noncurrent_time_before: Option<String>,
    matches_prefix: Vec<String>,
    matches_suffix: Vec<String>,
    matches_storage_class: Vec<String>,
}

impl BucketRule {
    /// Reads S3's document. Errors: `Corrupt`.
    pub fn of_s3(xml: &[u8]) -> Result<Vec<Self>> {
        let read: Configuration = quick_xml::de::from_reader(xml)
            .map_err(|error| Error::corrupt(format!("could not read the bucket's lifecycle rules: {error}")))?;
        let enabled = read.rules.into_iter().filter(|rule| rule.status.eq_ignore_ascii_case("Enabled"));
        let rule = |rule: Rule| {
            let filter = rule.filter.unwrap_or_default();
            let deletes = rule.expiration.and_then(|expiration| match expiration {
                Expiration { days: Some(days), .. } => Some(format!("{days} days after they were written")),
                Expiration { date: Some(date), .. } => Some(format!("on {date}")),
                // `ExpiredObjectDeleteMarker` removes what is left of objects that are deleted already.
                Expiration { days: None, date: None } => None,
            });
            BucketRule {
                id: rule.id.unwrap_or_default(),
                prefix: filter.prefix().map(str::to_owned).or(rule.prefix).unwrap_or_default(),
                deletes,
                aborts_uploads: rule.abort_incomplete_multipart_upload.is_some(),
                is_narrower: filter.is_narrower(),
            }
        };
        Ok(enabled.map(rule).collect())
    }

    /// Reads Google's document. Errors: `Corrupt`.
    pub fn of_google(json: &[u8]) -> Result<Vec<Self>> {
        let read: GoogleBucket = serde_json::from_slice(json)
            .map_err(|error| Error::corrupt(format!("could not read the bucket's lifecycle rules: {error}")))?;
        let rules = read.lifecycle.rule.into_iter().enumerate().flat_map(|(at, rule)| {
            let GoogleRule { action, condition } = rule;
            let is_about_old_versions = condition.is_live == Some(false)
                || condition.num_newer_versions.is_some_and(|newer| newer > 0)
                || condition.days_since_noncurrent_time.is_some()
                || condition.noncurrent_time_before.is_some();
            let when = match (condition.age, condition.created_before) {
                (Some(age), _) => format!("{age} days after they were written"),
                (None, Some(date)) => format!("once they are from before {date}"),
                (None, None) => "whenever its conditions hold".to_owned(),
            };
            let deletes = (action.kind == "Delete" && !is_about_old_versions).then_some(when);
            let is_narrower = !condition.matches_suffix.is_empty() || !condition.matches_storage_class.is_empty();
            let mut prefixes = condition.matches_prefix;
            if prefixes.is_empty() {
                prefixes.push(String::new());
            }
            prefixes.into_iter().map(move |prefix| BucketRule {
                id: format!("{}", at + 1),
                prefix,
                deletes: deletes.clone(),
                aborts_uploads: action.kind == "AbortIncompleteMultipartUpload",
                is_narrower,
            })
        });
        Ok(rules.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(rules: &[BucketRule]) -> Vec<(&str, &str, Option<&str>, bool, bool)> {
        rules
            .iter()
            .map(|rule| {
                (rule.id.as_str(), rule.prefix.as_str(), rule.deletes.as_deref(), rule.aborts_uploads, rule.is_narrower)
            })
            .collect()
    }

    #[test]
    fn rules_of_s3_are_read_in_every_form() {
        let xml = br#"<?xml version="1.0" encoding="UTF-8"?>
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Rule><ID>all</ID><Filter/><Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule>
  <Rule><ID>off</ID><Filter><Prefix>x</Prefix></Filter><Status>Disabled</Status><Expiration><Days>1</Days></Expiration></Rule>
  <Rule><ID>dated</ID><Filter><Prefix>pfx/</Prefix></Filter><Status>Enabled</Status><Expiration><Date>2027-01-01T00:00:00.000Z</Date></Expiration></Rule>
  <Rule><ID>tagged</ID><Filter><And><Prefix>a/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><Tag><Key>l</Key><Value>v</Value></Tag></And></Filter><Status>Enabled</Status><Expiration><Days>7</Days></Expiration></Rule>
  <Rule><ID>small</ID><Filter><ObjectSizeLessThan>500</ObjectSizeLessThan></Filter><Status>Enabled</Status><Expiration><Days>7</Days></Expiration></Rule>
  <Rule><ID>old form</ID><Prefix>b/</Prefix><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
  <Rule><ID>markers</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>
</LifecycleConfiguration>"#;
        let after = |days: u64| format!("{days} days after they were written");
        let (thirty, seven) = (after(30), after(7));
        assert_eq!(
            brief(&BucketRule::of_s3(xml).unwrap()),
            [
                ("all", "", Some(thirty.as_str()), false, false),
                ("dated", "pfx/", Some("on 2027-01-01T00:00:00.000Z"), false, false),
                ("tagged", "a/", Some(seven.as_str()), false, true),
                ("small", "", Some(seven.as_str()), false, true),
                ("old form", "b/", None, true, false),
                ("markers", "", None, false, false),
            ]
        );
        assert_eq!(BucketRule::of_s3(b"<LifecycleConfiguration/>").unwrap(), []);
        assert!(BucketRule::of_s3(b"<LifecycleConfiguration><Rule>").is_err());
        assert!(BucketRule::of_s3(b"nonsense").is_err());
    }

    #[test]
    fn conditions_within_conditions_cost_no_stack() {
        let (open, close) = ("<And>".repeat(4000), "</And>".repeat(4000));
        let filter = format!("<Filter>{open}<Prefix>a/</Prefix>{close}</Filter>");
        let xml =
            format!("<LifecycleConfiguration><Rule><Status>Enabled</Status>{filter}</Rule></LifecycleConfiguration>");
        // Refused or not: what no server says need not be understood.
        let _ = BucketRule::of_s3(xml.as_bytes());
    }

    #[test]
    fn rules_of_google_are_read() {
        let json = br#"{"lifecycle":{"rule":[
            {"action":{"type":"Delete"},"condition":{"age":30,"matchesPrefix":["pfx/","logs/"]}},
            {"action":{"type":"Delete"},"condition":{"age":1,"isLive":false}},
            {"action":{"type":"Delete"},"condition":{"createdBefore":"2026-01-01","matchesStorageClass":["NEARLINE"]}},
            {"action":{"type":"SetStorageClass","storageClass":"COLDLINE"},"condition":{"age":1}},
            {"action":{"type":"AbortIncompleteMultipartUpload"},"condition":{"age":7}}]}}"#;
        assert_eq!(
            brief(&BucketRule::of_google(json).unwrap()),
            [
                ("1", "pfx/", Some("30 days after they were written"), false, false),
                ("1", "logs/", Some("30 days after they were written"), false, false),
                ("2", "", None, false, false),
                ("3", "", Some("once they are from before 2026-01-01"), false, true),
                ("4", "", None, false, false),
                ("5", "", None, true, false),
            ]
        );
        assert_eq!(BucketRule::of_google(b"{}").unwrap(), []);
        assert!(BucketRule::of_google(b"nonsense").is_err());
    }
}
