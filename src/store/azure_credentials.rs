//! Azure identities: who we are when no key and no signature is given.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use object_store::azure::{AzureCredential as Credential, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::{ClientOptions, CredentialProvider, RetryConfig};

use super::{AzureCredential, StoreOptions, failure};
use crate::error::Result;

/// How long the metadata service of a machine is asked where `az` could answer instead: most machines that have `az` are no
/// machines of Azure.
const METADATA_PATIENCE: Duration = Duration::from_secs(5);

/// The identity that `which` asks for; no request is made yet.
///
/// The default is that of Azure's own libraries: a service principal in the environment, else workload identity, else the
/// managed identity, else `az`. The first two are configured or not, so that nothing is tried in vain.
pub(super) fn identity(
    which: AzureCredential,
    options: &StoreOptions,
    client: &ClientOptions,
) -> Result<AzureCredentialProvider> {
    let variable = |name: &str| options.variable(name).cloned();
    let (tenant, id) = (variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID"));
    let source = |kind: &str, retry: RetryConfig| {
        let mut builder = MicrosoftAzureBuilder::new()
            // Neither is used: only the credentials of what is built are.
            .with_account("account")
            .with_container_name("container")
            .with_client_options(client.clone())
            .with_retry(retry)
            .with_credential_type(kind);
        if let Some(host) = variable("AZURE_AUTHORITY_HOST") {
            builder = builder.with_authority_host(authority(&host));
        }
        if let (Some(tenant), true) = (&tenant, kind != "managed_identity") {
            builder = builder.with_tenant_id(tenant);
        }
        if let Some(id) = &id {
            builder = builder.with_client_id(id);
        }
        if let Some(secret) = variable("AZURE_CLIENT_SECRET") {
            builder = builder.with_client_secret(secret);
        }
        if let Some(file) = variable("AZURE_FEDERATED_TOKEN_FILE") {
            builder = builder.with_federated_token_file(file);
        }
        if let Some(endpoint) = variable("IDENTITY_ENDPOINT") {
            builder = builder.with_msi_endpoint(endpoint);
        }
        let built = builder.build().map_err(|error| failure::describe("use Azure credentials", kind, error))?;
        Ok(Arc::clone(built.credentials()))
    };
    options.refuse_open_file("AZURE_FEDERATED_TOKEN_FILE")?;
    let is_application = tenant.is_some() && id.is_some();
    let has = |name: &str| is_application && options.variable(name).is_some();
    match which {
        AzureCredential::AzureCli => source("azure_cli", options.retry()),
        AzureCredential::Default if has("AZURE_CLIENT_SECRET") => source("client_secret", options.retry()),
        // A pod's identity is one that is managed for it.
        AzureCredential::Default | AzureCredential::ManagedIdentity if has("AZURE_FEDERATED_TOKEN_FILE") => {
            source("workload_identity", options.retry())
        }
        AzureCredential::Default if is_installed("az", options) => {
            let brief = RetryConfig { retry_timeout: METADATA_PATIENCE, max_retries: 2, ..options.retry() };
            let sources = vec![source("managed_identity", brief)?, source("azure_cli", options.retry())?];
            Ok(Arc::new(FirstOf { sources, works: OnceLock::new() }))
        }
        AzureCredential::Default | AzureCredential::ManagedIdentity => source("managed_identity", options.retry()),
    }
}

/// `login.microsoftonline.com/` as the store library wants it.
fn authority(host: &str) -> String {
    let host = host.trim_end_matches('/');
    if host.contains("://") { host.to_owned() } else { format!("https://{host}") }
}

fn is_installed(program: &str, options: &StoreOptions) -> bool {
    let path = options.variable("PATH").map_or("", String::as_str);
    std::env::split_paths(path).any(|dir: std::path::PathBuf| Path::new(&dir).join(program).is_file())
}

/// The first source that answers is asked from then on.
#[derive(Debug)]
struct FirstOf {
    sources: Vec<AzureCredentialProvider>,
    works: OnceLock<usize>,
}

#[async_trait]
impl CredentialProvider for FirstOf {
    type Credential = Credential;

    async fn get_credential(&self) -> object_store::Result<Arc<Credential>> {
        if let Some(works) = self.works.get() {
            return self.sources[*works].get_credential().await;
        }
        let mut causes = Vec::new();
        for (number, source) in self.sources.iter().enumerate() {
            match source.get_credential().await {
                Ok(credential) => {
                    let _ = self.works.set(number);
                    return Ok(credential);
                }
                Err(error) => causes.push(failure::root_cause(&error)),
            }
        }
        let cause = format!("no Azure credentials: {}", causes.join("; "));
        Err(object_store::Error::Generic { store: "MicrosoftAzure", source: cause.into() })
    }
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;

    use super::*;

    #[derive(Debug)]
    struct Refuses;

    #[async_trait]
    impl CredentialProvider for Refuses {
        type Credential = Credential;

        async fn get_credential(&self) -> object_store::Result<Arc<Credential>> {
            Err(object_store::Error::Generic { store: "test", source: "nobody is home".into() })
        }
    }

    #[tokio::test]
    async fn the_first_source_that_answers_is_kept_and_all_refusals_are_told() {
        let token = || Arc::new(StaticCredentialProvider::new(Credential::BearerToken("t".into())));
        let chain = FirstOf { sources: vec![Arc::new(Refuses), token()], works: OnceLock::new() };
        assert_eq!(*chain.get_credential().await.unwrap(), Credential::BearerToken("t".into()));
        assert_eq!(chain.works.get(), Some(&1));
        let chain = FirstOf { sources: vec![Arc::new(Refuses), Arc::new(Refuses)], works: OnceLock::new() };
        let told = chain.get_credential().await.unwrap_err().to_string();
        assert_eq!(told.matches("nobody is home").count(), 2, "{told}");
    }

    #[test]
    fn an_authority_is_a_url_without_a_slash_at_its_end() {
        assert_eq!(authority("https://login.microsoftonline.com/"), "https://login.microsoftonline.com");
        assert_eq!(authority("login.chinacloudapi.cn"), "https://login.chinacloudapi.cn");
    }
}
