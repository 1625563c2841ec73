//! A round trip with the AWS SDK for Rust; endpoint and credentials come from the environment.

use std::error::Error;

use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyState};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_config::from_env().http_client(http).load().await;
    let kms = Client::new(&config);
    let identity = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await?;
    assert!(identity.arn().is_some_and(|arn| arn.ends_with(":user/administrator")), "{identity:?}");
    let created = kms.create_key().description("rust").send().await?;
    let key = created.key_metadata().expect("metadata");
    let arn = key.arn().expect("an ARN");
    assert_eq!(key.key_state(), Some(&KeyState::Enabled));
    let made =
        kms.generate_data_key().key_id(arn).key_spec(DataKeySpec::Aes256).encryption_context("fs", "v").send().await?;
    let blob = made.ciphertext_blob().expect("a blob").clone();
    let opened = kms.decrypt().ciphertext_blob(blob.clone()).encryption_context("fs", "v").send().await?;
    assert_eq!(opened.plaintext(), made.plaintext());
    let refused = kms.decrypt().ciphertext_blob(blob.clone()).send().await.expect_err("without its context");
    assert!(refused.into_service_error().is_invalid_ciphertext_exception());
    let other = kms.create_key().send().await?.key_metadata.expect("metadata");
    let moved = kms
        .re_encrypt()
        .ciphertext_blob(blob)
        .source_encryption_context("fs", "v")
        .destination_key_id(other.arn().expect("an ARN"))
        .send()
        .await?;
    let opened = kms.decrypt().ciphertext_blob(moved.ciphertext_blob().expect("a blob").clone()).send().await?;
    assert_eq!((opened.plaintext(), opened.key_id()), (made.plaintext(), other.arn()));
    kms.create_alias().alias_name("alias/rust").target_key_id(arn).send().await?;
    let sealed = kms.encrypt().key_id("alias/rust").plaintext(Blob::new("secret")).send().await?;
    let blob = sealed.ciphertext_blob().expect("a blob").clone();
    let opened = kms.decrypt().ciphertext_blob(blob).key_id(arn).send().await?;
    assert_eq!(opened.plaintext().map(AsRef::as_ref), Some(&b"secret"[..]));
    kms.disable_key().key_id(arn).send().await?;
    let refused = kms.encrypt().key_id(arn).plaintext(Blob::new("x")).send().await.expect_err("disabled");
    let refused = refused.into_service_error();
    assert!(refused.is_disabled_exception());
    assert_eq!(refused.meta().message(), Some(format!("{arn} is disabled.").as_str()));
    let mut pages = kms.list_keys().into_paginator().page_size(1).items().send();
    let mut seen = false;
    while let Some(entry) = pages.next().await {
        seen |= entry?.key_arn() == Some(arn);
    }
    assert!(seen);
    Ok(())
}
