//! Texts that can be used and not printed, so that no log line, report or error can hold one by mistake.

use std::collections::BTreeMap;
use std::fmt;

/// A password, key or token. There is no `Display`, and `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the server it was made for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The variables of a process, where secrets are: `Debug` prints names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// A variable; an empty one says nothing.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// Sets a variable.
    pub fn insert(&mut self, name: String, value: String) {
        self.0.insert(name, value);
    }

    /// All of them, empty ones too.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let environment: Environment =
            [("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned())].into_iter().collect();
        assert_eq!(format!("{:?} {environment:?}", Secret::new("hunter2")), "*** {\"AWS_SECRET_ACCESS_KEY\"}");
        assert_eq!(Secret::new("hunter2").reveal(), "hunter2");
        assert_eq!(environment.get("AWS_SECRET_ACCESS_KEY").unwrap(), "hunter2");
    }
}
