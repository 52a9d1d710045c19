//! The AWS credential chain beyond plain variables: profiles, SSO, assumed roles, credential processes, IMDS.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// Credentials are renewed this long before they end, so that no request is signed with dead ones.
const RENEW_BEFORE_END: Duration = Duration::from_mins(5);

/// Who could not renew them is not asked again by each request.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The chain of `aws-config` as a credential provider. Loaded only when no variable gives credentials
/// directly, so that `wal-archive` with plain keys never pays for it.
#[derive(Debug)]
pub(super) struct Chain {
    provider: Option<SharedCredentialsProvider>,
    region: Option<String>,
    current: Mutex<Option<Credentials>>,
    /// When they were last asked for in vain.
    refused: Mutex<Option<Instant>>,
    /// Whether a profile is asked for, by option or by `AWS_PROFILE`.
    names_profile: bool,
}

impl Chain {
    /// Reads the configuration files; asks no service for credentials yet.
    ///
    /// A `profile` that is asked for is the only source, as in the AWS tools: keys that happen to be in the environment
    /// are another account's. Without one the usual order holds: variables, `AWS_PROFILE` or the default profile,
    /// services nearby.
    pub(super) async fn load(profile: Option<String>, region: Option<String>, names_profile: bool) -> Self {
        let client = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client.clone());
        if let Some(profile) = &profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        let config = loader.load().await;
        let provider = match profile {
            None => config.credentials_provider(),
            Some(profile) => {
                let around =
                    ProviderConfig::without_region().with_http_client(client).with_region(config.region().cloned());
                let only = ProfileFileCredentialsProvider::builder().configure(&around).profile_name(profile).build();
                Some(SharedCredentialsProvider::new(only))
            }
        };
        let region = config.region().map(ToString::to_string);
        Self { provider, region, current: Mutex::new(None), refused: Mutex::new(None), names_profile }
    }

    /// Where nothing gives credentials and nobody named a profile, the chain's error is a list of all it looked at; the AWS
    /// tools say it shorter.
    fn explained(&self, error: CredentialsError) -> Box<dyn std::error::Error + Send + Sync> {
        match error {
            CredentialsError::CredentialsNotLoaded(_) if !self.names_profile => "Unable to locate credentials".into(),
            error => error.into(),
        }
    }

    /// The region the configuration names.
    pub(super) fn region(&self) -> Option<String> {
        self.region.clone()
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |source| object_store::Error::Generic { store: "S3", source };
        let mut current = self.current.lock().await;
        let mut refused = self.refused.lock().await;
        let may_wait = current.as_ref().is_some_and(is_alive) && refused.is_some_and(|at| at.elapsed() < ASK_AGAIN);
        if !current.as_ref().is_some_and(is_fresh) && !may_wait {
            let provider = self.provider.as_ref().ok_or_else(|| failed("no AWS credentials are configured".into()))?;
            match provider.provide_credentials().await {
                Ok(provided) => *current = Some(provided),
                // Who gives them may be back before the old ones end.
                Err(error) if current.as_ref().is_some_and(is_alive) => {
                    *refused = Some(Instant::now());
                    tracing::warn!("could not renew the credentials, which are good for some minutes yet: {error}");
                }
                Err(error) => return Err(failed(self.explained(error))),
            }
        }
        let credentials = current.as_ref().expect("just filled");
        Ok(Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        }))
    }
}

fn is_alive(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|end| end > SystemTime::now())
}

fn is_fresh(credentials: &Credentials) -> bool {
    credentials.expiry().is_none_or(|end| end > SystemTime::now() + RENEW_BEFORE_END)
}
