//! What is written beside an object's bytes, in each store's own terms: user metadata and tags.

use object_store::{Attribute, Attributes, TagSet};

use super::{Metadata, Place};
use crate::error::{Error, Result};

/// How a store spells metadata, and the tags that every object written gets.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    dialect: Dialect,
    tags: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    S3,
    /// Names of metadata are C# identifiers, which have no `-`: we write `_` for it, and read it back as `-`.
    Azure,
    /// There are no tags: they become metadata, as with Barman 3.19.1.
    Gcs,
    /// Files have neither.
    Directory,
}

impl Labels {
    /// Errors: `Usage` for a tag that the store cannot hold.
    pub(super) fn new(place: &Place, tags: &[(String, String)]) -> Result<Self> {
        let dialect = match place {
            Place::S3 { .. } => Dialect::S3,
            Place::Azure { .. } => Dialect::Azure,
            Place::Gcs { .. } => Dialect::Gcs,
            Place::Directory(_) => Dialect::Directory,
        };
        if dialect == Dialect::Gcs
            && let Some((name, value)) = tags.iter().find(|(name, value)| !is_header(name, value))
        {
            let message =
                format!("could not use tag \"{name}\" with value \"{value}\": it cannot be written as metadata");
            return Err(Error::usage(message).with_hint(
                "Google Cloud Storage takes letters, digits and most punctuation, but no spaces in names.",
            ));
        }
        Ok(Self { dialect, tags: tags.to_vec() })
    }

    /// `metadata` as this store takes it.
    pub(super) fn attributes(&self, metadata: &Metadata) -> Attributes {
        let own = metadata.iter().map(|(name, value)| (name.clone(), value.clone()));
        let attribute = |(name, value): (String, String)| (Attribute::Metadata(name.into()), value);
        match self.dialect {
            Dialect::Directory => Attributes::new(),
            Dialect::S3 => own.map(attribute).collect(),
            Dialect::Azure => own.map(|(name, value)| attribute((name.replace('-', "_"), value))).collect(),
            Dialect::Gcs => self.tags.iter().cloned().chain(own).map(attribute).collect(),
        }
    }

    /// The metadata an object was written with.
    pub(super) fn metadata(&self, attributes: &Attributes) -> Metadata {
        let named = attributes.iter().filter_map(|(name, value)| match name {
            Attribute::Metadata(name) => Some((name.to_string(), value.as_ref().to_owned())),
            _ => None,
        });
        match self.dialect {
            Dialect::Azure => named.map(|(name, value)| (name.replace('_', "-"), value)).collect(),
            _ => named.collect(),
        }
    }

    /// The tags as such, where the store has them.
    pub(super) fn tags(&self) -> TagSet {
        let mut set = TagSet::default();
        if matches!(self.dialect, Dialect::S3 | Dialect::Azure) {
            for (name, value) in &self.tags {
                set.push(name, value);
            }
        }
        set
    }
}

/// True for what can be a header's name behind a prefix, and a header's value.
fn is_header(name: &str, value: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        url.parse().unwrap()
    }

    fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn metadata_comes_back_from_every_store_under_its_own_name() {
        let metadata = Metadata::from([("barback-sha256".to_owned(), "ab".to_owned())]);
        for (url, spelt) in
            [("s3://b", Some("barback-sha256")), ("az://c", Some("barback_sha256")), ("gs://b", Some("barback-sha256"))]
        {
            let labels = Labels::new(&place(url), &[]).unwrap();
            let attributes = labels.attributes(&metadata);
            let stored = attributes.get(&Attribute::Metadata(spelt.unwrap().into()));
            assert_eq!(stored.map(AsRef::as_ref), Some("ab"), "{url}");
            assert_eq!(labels.metadata(&attributes), metadata, "{url}");
        }
        assert!(Labels::new(&place("file:///d"), &[]).unwrap().attributes(&metadata).is_empty());
    }

    #[test]
    fn tags_are_tags_where_there_are_such_and_metadata_on_google_cloud_storage() {
        let given = tags(&[("team", "dba"), ("a b", "c&d")]);
        for url in ["s3://b", "az://c"] {
            let labels = Labels::new(&place(url), &given).unwrap();
            assert_eq!(labels.tags().encoded(), "team=dba&a+b=c%26d");
            assert!(labels.attributes(&Metadata::new()).is_empty());
        }
        assert_eq!(Labels::new(&place("file:///d"), &given).unwrap().tags().encoded(), "");
        let labels = Labels::new(&place("gs://b"), &given[..1]).unwrap();
        assert_eq!(labels.metadata(&labels.attributes(&Metadata::new()))["team"], "dba");
        assert_eq!(labels.tags().encoded(), "");
    }

    #[test]
    fn a_tag_that_cannot_be_a_header_is_refused_on_google_cloud_storage() {
        for (name, value) in [("a b", "c"), ("", "c"), ("é", "c"), ("a", "é"), ("a", "b\nc")] {
            let refused = Labels::new(&place("gs://b"), &tags(&[(name, value)])).unwrap_err();
            assert_eq!(refused.kind(), crate::error::ErrorKind::Usage);
        }
    }
}
