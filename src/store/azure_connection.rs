//! Azure's connection strings: one line that names an account, how to reach it and a secret.

use crate::error::{Error, Result};
use crate::secret::Secret;

/// The account that every storage emulator has, and its key: both are public.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where an emulator is unless something else is said.
const EMULATOR_HOST: &str = "http://127.0.0.1";

/// What a connection string says.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) account: Option<String>,
    pub(super) key: Option<Secret>,
    pub(super) sas: Option<Secret>,
    /// The URL that a container's name follows, without a slash at its end.
    pub(super) endpoint: Option<String>,
}

impl Connection {
    /// Reads `Name=value;Name=value`; names in any case, ones that are about other services are left alone.
    ///
    /// Errors: `Usage`; the text is not repeated.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::usage(format!("could not use AZURE_STORAGE_CONNECTION_STRING: {why}"));
        let mut said = Said::default();
        for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| refuse("a part of it is not Name=value"))?;
            said.take(&name.trim().to_ascii_lowercase(), value.trim());
        }
        if said.emulator {
            let host = said.emulator_host.unwrap_or_else(|| EMULATOR_HOST.to_owned());
            return Ok(Self {
                account: Some(EMULATOR_ACCOUNT.to_owned()),
                key: Some(Secret::new(EMULATOR_KEY)),
                sas: None,
                endpoint: Some(format!("{}:10000/{EMULATOR_ACCOUNT}", host.trim_end_matches('/'))),
            });
        }
        let endpoint = match (&said.blob_endpoint, &said.account) {
            (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
            (None, Some(account)) => {
                let protocol = said.protocol.as_deref().unwrap_or("https");
                let suffix = said.suffix.as_deref().unwrap_or("core.windows.net");
                format!("{protocol}://{account}.blob.{suffix}")
            }
            (None, None) => return Err(refuse("it names neither AccountName nor BlobEndpoint")),
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(refuse("its endpoint is not an http:// or https:// URL"));
        }
        if said.key.is_none() && said.sas.is_none() {
            return Err(refuse("it has neither AccountKey nor SharedAccessSignature"));
        }
        Ok(Self {
            account: said.account.or_else(|| account_of(&endpoint)),
            key: said.key,
            sas: said.sas,
            endpoint: Some(endpoint),
        })
    }
}

#[derive(Default)]
struct Said {
    account: Option<String>,
    key: Option<Secret>,
    sas: Option<Secret>,
    blob_endpoint: Option<String>,
    protocol: Option<String>,
    suffix: Option<String>,
    emulator: bool,
    emulator_host: Option<String>,
}

impl Said {
    fn take(&mut self, name: &str, value: &str) {
        let some = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match name {
            "accountname" => self.account = some(),
            "accountkey" => self.key = some().map(Secret::new),
            "sharedaccesssignature" => self.sas = some().map(Secret::new),
            "blobendpoint" => self.blob_endpoint = some(),
            "defaultendpointsprotocol" => self.protocol = some(),
            "endpointsuffix" => self.suffix = some(),
            "usedevelopmentstorage" => self.emulator = value.eq_ignore_ascii_case("true"),
            "developmentstorageproxyuri" => self.emulator_host = some(),
            _ => {}
        }
    }
}

/// The account that an endpoint names: the host's first label, or for an address the path's first part.
fn account_of(endpoint: &str) -> Option<String> {
    let url = url::Url::parse(endpoint).ok()?;
    let in_path = url.path_segments().and_then(|mut parts| parts.next().map(str::to_owned));
    let in_host = url.domain().and_then(|host| host.split_once('.')).map(|(account, _)| account.to_owned());
    in_path.filter(|account| !account.is_empty()).or(in_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<String>, Option<String>, Option<String>, String) {
        let read = Connection::parse(text).unwrap_or_else(|error| unreachable!("{text}: {error}"));
        let text = |secret: Option<Secret>| secret.map(|secret| secret.reveal().to_owned());
        (read.account, text(read.key), text(read.sas), read.endpoint.unwrap())
    }

    #[test]
    fn every_shape_that_azure_hands_out_is_read() {
        let some = |text: &str| Some(text.to_owned());
        for (text, account, key, sas, endpoint) in [
            (
                "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5PQ==;EndpointSuffix=core.windows.net",
                some("acc"),
                some("a2V5PQ=="),
                None,
                "https://acc.blob.core.windows.net",
            ),
            (
                "AccountName=acc;AccountKey=k;EndpointSuffix=core.chinacloudapi.cn",
                some("acc"),
                some("k"),
                None,
                "https://acc.blob.core.chinacloudapi.cn",
            ),
            (
                "BlobEndpoint=https://acc.blob.core.windows.net/;QueueEndpoint=https://q/;SharedAccessSignature=sv=1&sig=a%3D",
                some("acc"),
                None,
                some("sv=1&sig=a%3D"),
                "https://acc.blob.core.windows.net",
            ),
            (
                "accountname=dev; accountkey=k; blobendpoint=http://10.0.0.1:10000/dev;",
                some("dev"),
                some("k"),
                None,
                "http://10.0.0.1:10000/dev",
            ),
            (
                "BlobEndpoint=http://127.0.0.1:10000/dev;SharedAccessSignature=sv=1",
                some("dev"),
                None,
                some("sv=1"),
                "http://127.0.0.1:10000/dev",
            ),
            (
                "UseDevelopmentStorage=true",
                some(EMULATOR_ACCOUNT),
                some(EMULATOR_KEY),
                None,
                "http://127.0.0.1:10000/devstoreaccount1",
            ),
            (
                "UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://azurite",
                some(EMULATOR_ACCOUNT),
                some(EMULATOR_KEY),
                None,
                "http://azurite:10000/devstoreaccount1",
            ),
        ] {
            assert_eq!(parse(text), (account, key, sas, endpoint.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_connection_string_is_refused_and_not_repeated() {
        for text in [
            "hunter2",
            "AccountKey=hunter2",
            "AccountName=acc",
            "AccountName=hunter2;AccountKey=hunter2;DefaultEndpointsProtocol=ftp",
            "BlobEndpoint=hunter2;AccountKey=hunter2",
            "",
        ] {
            let refused = Connection::parse(text).err().unwrap();
            assert_eq!(refused.kind(), crate::error::ErrorKind::Usage, "{text}");
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }
}
