//! Headers that the store library cannot be told to send, put on its requests just before they leave.

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method, header};
use object_store::ClientOptions;
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use super::throttle::ThrottledConnector;

/// An Azure encryption scope.
const AZURE_SCOPE: HeaderName = HeaderName::from_static("x-ms-encryption-scope");

/// A Google Cloud Storage key.
const GCS_KEY: HeaderName = HeaderName::from_static("x-goog-encryption-kms-key-name");

/// A connector for a store whose requests below `base` get what `rule` says.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) base: String,
    pub(super) rule: Rule,
}

/// What is added to which requests.
#[derive(Clone)]
pub(super) enum Rule {
    /// To everything written.
    AzureScope {
        scope: HeaderValue,
        account: String,
        /// Where requests are signed with the account's key, the header is part of what is signed.
        credentials: AzureCredentialProvider,
    },
    /// To whatever makes an object; the parts of an upload take after its beginning.
    GcsKey(HeaderValue),
}

/// Says no secret.
impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AzureScope { .. } => "AzureScope",
            Self::GcsKey(_) => "GcsKey",
        })
    }
}

impl HttpConnector for Edge {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ThrottledConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { edge: self.clone(), inner }))
    }
}

#[derive(Debug)]
struct Client {
    edge: Edge,
    inner: HttpClient,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Tokens are fetched through the same connector, from elsewhere.
        if request.uri().to_string().starts_with(&self.edge.base) {
            self.edge.rule.apply(&mut request).await.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        }
        self.inner.execute(request).await
    }
}

impl Rule {
    async fn apply(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        let query = request.uri().query().unwrap_or_default();
        match self {
            Self::AzureScope { scope, account, credentials } if request.method() == Method::PUT => {
                request.headers_mut().insert(AZURE_SCOPE, scope.clone());
                let credential = credentials.get_credential().await?;
                if matches!(*credential, AzureCredential::AccessKey(_)) {
                    request.headers_mut().remove(header::AUTHORIZATION);
                    AzureAuthorizer::new(&credential, account).try_authorize(request)?;
                }
            }
            Self::GcsKey(key)
                if (request.method() == Method::PUT && !query.contains("uploadId="))
                    || (request.method() == Method::POST && query.starts_with("uploads")) =>
            {
                request.headers_mut().insert(GCS_KEY, key.clone());
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;
    use object_store::azure::AzureAccessKey;
    use object_store::client::HttpRequestBody;

    use super::*;

    fn request(method: Method, uri: &str) -> HttpRequest {
        http::Request::builder().method(method).uri(uri).body(HttpRequestBody::empty()).unwrap()
    }

    #[tokio::test]
    async fn what_makes_an_object_names_its_key_and_nothing_else_does() {
        let rule = Rule::GcsKey(HeaderValue::from_static("projects/p/k"));
        for (method, query, expected) in [
            (Method::PUT, "", true),
            (Method::POST, "?uploads=", true),
            (Method::PUT, "?partNumber=1&uploadId=x", false),
            (Method::POST, "?uploadId=x", false),
            (Method::GET, "", false),
            (Method::DELETE, "", false),
        ] {
            let mut asked = request(method.clone(), &format!("http://h/b/k{query}"));
            rule.apply(&mut asked).await.unwrap();
            assert_eq!(asked.headers().contains_key(GCS_KEY), expected, "{method} {query}");
        }
    }

    #[tokio::test]
    async fn a_request_with_an_encryption_scope_is_signed_anew_and_once() {
        let key = AzureCredential::AccessKey(AzureAccessKey::try_new("a2V5").unwrap());
        let mut asked = request(Method::PUT, "http://h/acc/box/k");
        AzureAuthorizer::new(&key, "acc").try_authorize(&mut asked).unwrap();
        let before = asked.headers()[header::AUTHORIZATION].clone();
        let credentials = std::sync::Arc::new(StaticCredentialProvider::new(key));
        let rule = Rule::AzureScope { scope: HeaderValue::from_static("mine"), account: "acc".to_owned(), credentials };
        rule.apply(&mut asked).await.unwrap();
        let signatures: Vec<_> = asked.headers().get_all(header::AUTHORIZATION).iter().collect();
        assert_eq!(signatures.len(), 1);
        assert_ne!(signatures[0], before);
        assert_eq!(asked.headers()[AZURE_SCOPE], "mine");
    }
}
