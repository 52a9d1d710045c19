//! Opening an Azure container: which account, where it is, and which credentials.

use std::sync::Arc;

use http::HeaderValue;
use object_store::StaticCredentialProvider;
use object_store::azure::{
    AzureAccessKey, AzureCredential as Credential, AzureCredentialProvider, MicrosoftAzureBuilder, split_sas,
};

use super::azure_connection::Connection;
use super::edge::{Edge, Rule};
use super::service::{Service, Wire};
use super::throttle::ThrottledConnector;
use super::{AzureCredential, Encryption, Opened, Place, StoreOptions, azure_credentials, failure};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// What the place and the environment say together.
struct Account {
    name: String,
    /// The URL that a container's name follows.
    endpoint: String,
    /// A key or a signature; none: an identity.
    secret: Option<Credential>,
}

/// Builds a client for the container of `options.place`; sends nothing.
pub(super) fn open(options: &StoreOptions) -> Result<Opened> {
    let account = account(options)?;
    let container = options.place.container();
    let plain = account.endpoint.starts_with("http://");
    let client = options.client("REQUESTS_CA_BUNDLE", !plain || account.secret.is_none())?.with_allow_http(plain);
    let by_signature = matches!(account.secret, Some(Credential::SASToken(_)));
    let credentials: AzureCredentialProvider = if let Some(secret) = account.secret {
        Arc::new(StaticCredentialProvider::new(secret))
    } else {
        let which = options.azure_credential.unwrap_or(AzureCredential::Default);
        azure_credentials::identity(which, options, &client)?
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&account.name)
        .with_container_name(&container)
        .with_endpoint(account.endpoint.clone())
        .with_credentials(Arc::clone(&credentials))
        .with_client_options(client.clone())
        .with_http_connector(ThrottledConnector::default())
        .with_retry(options.retry());
    if let Some(rule) = encryption(options, &account.name, &credentials)? {
        builder = builder.with_http_connector(Edge { base: account.endpoint.clone(), rule });
    }
    let objects = builder.build().map_err(|error| failure::describe("open container", &container, error))?;
    let service = Service::Azure {
        credentials,
        by_signature,
        account: account.name,
        url: format!("{}/{container}", account.endpoint),
        wire: Wire::new(client),
    };
    let objects = Arc::new(objects);
    Ok(Opened { pages: Some(objects.clone()), objects, service })
}

/// Barman 3.19.1's order: credentials asked for by name, else the connection string, else the signature, else the key, else
/// an identity. A connection string says where the account is, too, whatever the URL says.
fn account(options: &StoreOptions) -> Result<Account> {
    let Place::Azure { account, endpoint, .. } = &options.place else {
        return Err(Error::new(crate::error::ErrorKind::Bug, "an Azure store was opened for another place"));
    };
    let by_name = options.azure_credential.is_some();
    let secrets = |name: &str| options.variable(name).filter(|_| !by_name);
    let connection = secrets("AZURE_STORAGE_CONNECTION_STRING").map(|text| Connection::parse(text)).transpose()?;
    let connected = connection.is_some();
    let connection = connection.unwrap_or_default();
    if let (Some(said), Some(written)) = (&connection.account, account)
        && said != written
    {
        tracing::warn!(
            "the store's URL names account \"{written}\", the connection string \"{said}\": that one counts"
        );
    }
    let name = connection.account.or_else(|| account.clone()).or_else(|| {
        options.variable("AZURE_STORAGE_ACCOUNT").or_else(|| options.variable("AZURE_STORAGE_ACCOUNT_NAME")).cloned()
    });
    let Some(name) = name else {
        let message = format!("could not use store \"{}\": nothing says which storage account it is in", options.place);
        return Err(Error::usage(message)
            .with_hint("Set AZURE_STORAGE_ACCOUNT, or write https://account.blob.core.windows.net/container/prefix."));
    };
    let endpoint = connection
        .endpoint
        .or_else(|| endpoint.clone())
        .unwrap_or_else(|| format!("https://{name}.blob.core.windows.net"));
    let secret = if connected {
        // The order of Azure's libraries: a key is taken before a signature.
        connection.key.map(|key| access_key(&key)).or_else(|| connection.sas.map(|sas| signature(&sas)))
    } else if let Some(sas) = secrets("AZURE_STORAGE_SAS_TOKEN") {
        Some(signature(&Secret::new(sas)))
    } else {
        secrets("AZURE_STORAGE_KEY").map(|key| access_key(&Secret::new(key)))
    };
    Ok(Account { name, endpoint, secret: secret.transpose()? })
}

fn access_key(key: &Secret) -> Result<Credential> {
    let key = AzureAccessKey::try_new(key.reveal());
    key.map(Credential::AccessKey).map_err(|_| Error::usage("could not use the Azure account key: it is not base64"))
}

fn signature(sas: &Secret) -> Result<Credential> {
    let pairs = split_sas(sas.reveal());
    let refuse = |_| Error::usage("could not use the Azure SAS token: it is not name=value&name=value");
    pairs.map(Credential::SASToken).map_err(refuse)
}

fn encryption(options: &StoreOptions, account: &str, credentials: &AzureCredentialProvider) -> Result<Option<Rule>> {
    match &options.encryption {
        None => Ok(None),
        Some(Encryption::AzureScope(scope)) => {
            let refuse =
                |_| Error::usage(format!("\"{}\" is not the name of an encryption scope", scope.escape_debug()));
            let scope = HeaderValue::from_str(scope).map_err(refuse)?;
            Ok(Some(Rule::AzureScope { scope, account: account.to_owned(), credentials: Arc::clone(credentials) }))
        }
        Some(_) => Err(failure::foreign_encryption(&options.place)),
    }
}
