//! Custom key stores: PKCS#11 tokens that stand for CloudHSM clusters (KMS.md section 14).
//!
//! The connection state stands in the database and counts for every process. Each process logs in to the token by itself,
//! at the first use (`engine::in_token`).

use std::path::Path;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::Engine;
use super::call::{Call, Effect::*};
use super::check::members;
use super::lifecycle::put;
use super::page::Pager;
use crate::crypto::secret::SecretBytes;
use crate::env::{Entropy, random};
use crate::kms::model::*;
use crate::kms::store::{
    Change, ClusterRecord, KeyEntry, KeyRecord, KeyStoreLink, KeyStoreRecord, Material, MaterialRecord, Snapshot,
    TokenUse, below, key_row_id, key_store_row_id,
};
use crate::kms::token::{self, Token, TokenError};
use crate::kms::{KeyStoreFault, KmsError};
use crate::sync::Arc;

/// Custom key stores per account and Region (KMS.md section 18).
const MAX_STORES: usize = 10;
/// What stands behind `cluster-`.
const CLUSTER_ALPHABET: &[u8; 32] = b"234567abcdefghijkmnopqrstuvwxyzA";

pub fn fault(fault: KeyStoreFault, text: impl Into<String>) -> KmsError {
    KmsError::KeyStore { fault, text: text.into() }
}

impl Engine {
    /// Makes a cluster id for the token with this label in the PKCS#11 module at `module`. Not an operation of AWS's
    /// API: loading a module runs its code in every process of this key manager.
    pub fn add_cluster(&self, caller: &Caller, module: &Path, token_label: &str) -> Result<ClusterEntry, KmsError> {
        let parameters = json!({ "module": module.display().to_string(), "tokenLabel": token_label });
        self.call(caller, ("AddCluster", Changes), parameters, |call| {
            let path = module.to_str().filter(|_| module.is_absolute());
            let path = path.ok_or_else(|| KmsError::Validation("The module is named by an absolute path.".into()))?;
            token::find(module, token_label).map_err(not_active)?;
            let cluster_id = cluster_id(&*call.shared.entropy);
            call.change(|_, change| {
                let same = |cluster: &ClusterRecord| cluster.module == path && cluster.token_label == token_label;
                if let Some((id, _)) = change.snapshot().clusters.iter().find(|(_, cluster)| same(cluster)) {
                    return Ok(entry_of(id, path, token_label));
                }
                let (module, token_label) = (path.to_owned(), token_label.to_owned());
                let answer = entry_of(&cluster_id, &module, &token_label);
                change.put(&cluster_id, ClusterRecord { module, token_label, trust_anchor: None });
                Ok(answer)
            })
        })
    }

    /// The clusters that are known.
    pub fn clusters(&self) -> Result<Vec<ClusterEntry>, KmsError> {
        let snapshot = self.shared.store.current()?;
        let entry =
            |(id, cluster): (&Arc<str>, &Arc<ClusterRecord>)| entry_of(id, &cluster.module, &cluster.token_label);
        Ok(snapshot.clusters.iter().map(entry).collect())
    }

    /// `CreateCustomKeyStore`. It is `DISCONNECTED` at first.
    pub fn create_custom_key_store(
        &self,
        caller: &Caller,
        request: CreateCustomKeyStoreRequest,
    ) -> Result<CreateCustomKeyStoreResponse, KmsError> {
        let kind = request.custom_key_store_type.unwrap_or(CustomKeyStoreType::AwsCloudHsm);
        let parameters = json!({
            "customKeyStoreName": request.custom_key_store_name, "customKeyStoreType": kind,
            "cloudHsmClusterId": request.cloud_hsm_cluster_id,
        });
        self.call(caller, ("CreateCustomKeyStore", Changes), parameters, |call| {
            members!(request: custom_key_store_name, cloud_hsm_cluster_id, trust_anchor_certificate,
                key_store_password)?;
            call.permit(&*call.snapshot()?, "CreateCustomKeyStore", "*")?;
            if kind == CustomKeyStoreType::ExternalKeyStore {
                return Err(KmsError::UnsupportedOperation("kmsfs has no external key stores.".into()));
            }
            let members = (request.cloud_hsm_cluster_id, request.key_store_password, request.trust_anchor_certificate);
            let (Some(cluster), Some(password), Some(trust_anchor)) = members else {
                let text = "CloudHsmClusterId, KeyStorePassword and TrustAnchorCertificate are required for a custom \
                            key store of type AWS_CLOUDHSM.";
                return Err(KmsError::Validation(text.into()));
            };
            let found = cluster_record(&*call.snapshot()?, &cluster)?;
            // The token must be there; whether the password is right turns out when the store is connected.
            token::find(Path::new(&found.module), &found.token_label).map_err(not_active)?;
            call.change(|call, change| {
                let found = cluster_record(change.snapshot(), &cluster)?;
                let own = stores(call, change.snapshot()).count();
                if own >= MAX_STORES {
                    let text =
                        format!("The account has {MAX_STORES} custom key stores in this Region, which is its quota.");
                    return Err(KmsError::LimitExceeded(text));
                }
                name_is_free(call, change.snapshot(), &request.custom_key_store_name)?;
                if change.snapshot().key_stores.values().any(|store| store.cluster == cluster) {
                    return Err(fault(
                        KeyStoreFault::ClusterInUse,
                        format!("{cluster} has a custom key store already."),
                    ));
                }
                match &found.trust_anchor {
                    Some(known) if *known != trust_anchor => {
                        let text = format!("The trust anchor certificate is not the one known for {cluster}.");
                        return Err(fault(KeyStoreFault::IncorrectTrustAnchor, text));
                    }
                    Some(_) => {}
                    None => {
                        let trust_anchor = Some(trust_anchor.clone());
                        change.put(&cluster, ClusterRecord { trust_anchor, ..(*found).clone() });
                    }
                }
                let (region, account) = (call.caller.region().to_string(), call.caller.account().to_string());
                let id = format!("cks-{}", &HEXLOWER.encode(&random::<9>(&*call.shared.entropy))[..17]);
                let row_id = key_store_row_id(&region, &account, &id);
                let store = KeyStoreRecord {
                    region,
                    account,
                    id: id.clone(),
                    name: request.custom_key_store_name,
                    cluster,
                    trust_anchor,
                    created: call.now,
                    state: ConnectionState::Disconnected,
                    error: None,
                    connected: None,
                    password: SecretBytes::from(password.expose()),
                };
                change.put(&row_id, store);
                call.response = json!({ "customKeyStoreId": id }).into();
                Ok(CreateCustomKeyStoreResponse { custom_key_store_id: id })
            })
        })
    }

    /// `ConnectCustomKeyStore`: logs in to the token. Whether that went well is told by `DescribeCustomKeyStores`, as AWS,
    /// which takes its time, does it.
    pub fn connect_custom_key_store(&self, caller: &Caller, request: CustomKeyStoreIdRequest) -> Result<(), KmsError> {
        let parameters = json!({ "customKeyStoreId": request.custom_key_store_id });
        self.call(caller, ("ConnectCustomKeyStore", Changes), parameters, |call| {
            members!(request: custom_key_store_id)?;
            call.permit(&*call.snapshot()?, "ConnectCustomKeyStore", "*")?;
            let (row_id, store) = found(call, &*call.snapshot()?, &request.custom_key_store_id)?;
            match store.state {
                ConnectionState::Connected => return Ok(()),
                ConnectionState::Failed | ConnectionState::Disconnecting => return Err(wrong_state(&store)),
                ConnectionState::Disconnected | ConnectionState::Connecting => {}
            }
            let since = call.now;
            call.shared.tokens.expect_tokens();
            let outcome = call.shared.log_in(&*call.snapshot()?, &row_id, &store, since);
            call.additional = match &outcome {
                Ok(_) => json!({ "connectionState": ConnectionState::Connected }),
                Err(error) => json!({ "connectionState": ConnectionState::Failed, "reason": error.to_string() }),
            }
            .into();
            call.change(|call, change| {
                let (row_id, store) = found(call, change.snapshot(), &request.custom_key_store_id)?;
                if store.state != ConnectionState::Disconnected {
                    return Err(wrong_state(&store));
                }
                match outcome {
                    Ok(_) => set_state(change, &row_id, &store, |store| {
                        (store.state, store.error, store.connected) = (ConnectionState::Connected, None, Some(since));
                    }),
                    Err(error) => fail(change, &row_id, &store, &error),
                }
            })
        })
    }

    /// `DisconnectCustomKeyStore`: its keys are `Unavailable` in every process from its next call on.
    pub fn disconnect_custom_key_store(
        &self,
        caller: &Caller,
        request: CustomKeyStoreIdRequest,
    ) -> Result<(), KmsError> {
        let parameters = json!({ "customKeyStoreId": request.custom_key_store_id });
        self.call(caller, ("DisconnectCustomKeyStore", Changes), parameters, |call| {
            members!(request: custom_key_store_id)?;
            call.permit(&*call.snapshot()?, "DisconnectCustomKeyStore", "*")?;
            let row_id = call.change(|call, change| {
                let (row_id, store) = found(call, change.snapshot(), &request.custom_key_store_id)?;
                if matches!(store.state, ConnectionState::Disconnected | ConnectionState::Disconnecting) {
                    return Err(wrong_state(&store));
                }
                set_state(change, &row_id, &store, |store| {
                    (store.state, store.error, store.connected) = (ConnectionState::Disconnected, None, None);
                })?;
                Ok(row_id)
            })?;
            call.shared.tokens.forget(&row_id);
            Ok(())
        })
    }

    /// `DescribeCustomKeyStores`.
    pub fn describe_custom_key_stores(
        &self,
        caller: &Caller,
        request: DescribeCustomKeyStoresRequest,
    ) -> Result<DescribeCustomKeyStoresResponse, KmsError> {
        let parameters = json!({
            "customKeyStoreId": request.custom_key_store_id, "customKeyStoreName": request.custom_key_store_name,
            "limit": request.limit,
        });
        self.call(caller, ("DescribeCustomKeyStores", ReadOnly), parameters, |call| {
            let (id, name) = (request.custom_key_store_id.as_deref(), request.custom_key_store_name.as_deref());
            members!(request: custom_key_store_id, custom_key_store_name, limit, marker)?;
            if id.is_some() && name.is_some() {
                let text = "CustomKeyStoreId and CustomKeyStoreName cannot be specified together.";
                return Err(KmsError::Validation(text.into()));
            }
            let snapshot = call.snapshot()?;
            call.permit(&snapshot, "DescribeCustomKeyStores", "*")?;
            let wanted = |store: &KeyStoreRecord| {
                id.is_none_or(|id| id == store.id) && name.is_none_or(|name| name == store.name)
            };
            let listed = stores(call, &snapshot).filter(|(_, store)| wanted(store));
            let listed: Vec<_> = listed.map(|(row_id, store)| (row_id.to_string(), entry(store))).collect();
            if listed.is_empty() && (id.is_some() || name.is_some()) {
                return Err(not_found(id.or(name).unwrap_or("")));
            }
            let pager = Pager {
                operation: "DescribeCustomKeyStores",
                filter: &format!("{id:?} {name:?}"),
                limit: request.limit,
                default: 100,
                marker: request.marker.as_deref(),
            };
            let page = pager.page(call, listed.into_iter())?;
            Ok(DescribeCustomKeyStoresResponse {
                custom_key_stores: page.items,
                truncated: page.next.is_some(),
                next_marker: page.next,
            })
        })
    }

    /// `UpdateCustomKeyStore`: the name while connected or disconnected, the rest while disconnected.
    pub fn update_custom_key_store(
        &self,
        caller: &Caller,
        request: UpdateCustomKeyStoreRequest,
    ) -> Result<(), KmsError> {
        let parameters = json!({
            "customKeyStoreId": request.custom_key_store_id,
            "newCustomKeyStoreName": request.new_custom_key_store_name,
            "cloudHsmClusterId": request.cloud_hsm_cluster_id,
        });
        self.call(caller, ("UpdateCustomKeyStore", Changes), parameters, |call| {
            members!(request: custom_key_store_id, new_custom_key_store_name, key_store_password,
                cloud_hsm_cluster_id)?;
            call.permit(&*call.snapshot()?, "UpdateCustomKeyStore", "*")?;
            let UpdateCustomKeyStoreRequest {
                custom_key_store_id,
                new_custom_key_store_name: name,
                key_store_password: password,
                cloud_hsm_cluster_id: cluster,
            } = request;
            call.change(|call, change| {
                let (row_id, store) = found(call, change.snapshot(), &custom_key_store_id)?;
                let only_name = password.is_none() && cluster.is_none();
                match store.state {
                    ConnectionState::Disconnected => {}
                    ConnectionState::Connected if only_name => {}
                    _ => return Err(wrong_state(&store)),
                }
                if let Some(name) = name.as_deref().filter(|name| *name != store.name) {
                    name_is_free(call, change.snapshot(), name)?;
                }
                if let Some(cluster) = cluster.as_deref().filter(|cluster| *cluster != store.cluster) {
                    let new = cluster_record(change.snapshot(), cluster)?;
                    let old = cluster_record(change.snapshot(), &store.cluster)?;
                    if new.token_label != old.token_label {
                        let text = format!("{cluster} is not the token of {}.", store.id);
                        return Err(fault(KeyStoreFault::ClusterNotRelated, text));
                    }
                }
                let edited = store.edited(|store| {
                    store.name = name.unwrap_or_else(|| store.name.clone());
                    store.cluster = cluster.unwrap_or_else(|| store.cluster.clone());
                    if let Some(password) = password {
                        store.password = SecretBytes::from(password.expose());
                    }
                });
                let cluster = edited.cluster.clone();
                change.put(&row_id, edited);
                for key in keys_of(change.snapshot(), &store) {
                    put(change, &key, |record| {
                        if let Some(link) = &mut record.key_store {
                            link.cluster.clone_from(&cluster);
                        }
                    })?;
                }
                Ok(())
            })
        })
    }

    /// `DeleteCustomKeyStore`: of a disconnected store without keys. The token stays as it is.
    pub fn delete_custom_key_store(&self, caller: &Caller, request: CustomKeyStoreIdRequest) -> Result<(), KmsError> {
        let parameters = json!({ "customKeyStoreId": request.custom_key_store_id });
        self.call(caller, ("DeleteCustomKeyStore", Changes), parameters, |call| {
            members!(request: custom_key_store_id)?;
            call.permit(&*call.snapshot()?, "DeleteCustomKeyStore", "*")?;
            call.change(|call, change| {
                let (row_id, store) = found(call, change.snapshot(), &request.custom_key_store_id)?;
                if !keys_of(change.snapshot(), &store).is_empty() {
                    let text = format!("{} contains KMS keys; schedule their deletion and wait for it.", store.id);
                    return Err(fault(KeyStoreFault::HasKeys, text));
                }
                if store.state != ConnectionState::Disconnected {
                    return Err(wrong_state(&store));
                }
                change.delete::<KeyStoreRecord>(&row_id);
                Ok(())
            })
        })
    }
}

/// Material of a key that is about to be created, made in the token of its store.
pub struct NewInToken {
    row_id: String,
    material_id: [u8; 32],
    link: KeyStoreLink,
}

impl NewInToken {
    /// Makes it in the caller's store `id`.
    pub fn make(call: &Call<'_>, id: &str) -> Result<Self, KmsError> {
        let snapshot = call.snapshot()?;
        let (row_id, store) = connected(call, &snapshot, id)?;
        let material_id = random(&*call.shared.entropy);
        call.shared.with_token(&snapshot, &row_id, |token| token.generate(&material_id)).map_err(not_active)?;
        let link = KeyStoreLink { id: store.id.clone(), cluster: store.cluster.clone(), unavailable: false };
        Ok(Self { row_id, material_id, link })
    }

    /// Enters the key made from `template`, if the store is still connected.
    pub fn enter(
        &self,
        call: &Call<'_>,
        change: &mut Change<'_>,
        template: KeyRecord,
    ) -> Result<Arc<KeyEntry>, KmsError> {
        connected(call, change.snapshot(), &self.link.id)?;
        let key_id = uuid::Builder::from_random_bytes(random(&*call.shared.entropy)).into_uuid().to_string();
        let record = MaterialRecord {
            material_id: HEXLOWER.encode(&self.material_id),
            generation: 0,
            created: call.now,
            rotation: None,
            import: None,
            token: Some(TokenUse { encryptions: 0 }),
        };
        let row_id = key_row_id(&template.region, &key_id);
        change.put_key(KeyRecord {
            key_id,
            origin: Origin::AwsCloudHsm,
            key_store: Some(self.link.clone()),
            current_material: Some(record.material_id.clone()),
            ..template
        })?;
        change.put_material(&row_id, Material::new(record, None).expect("the id is hex"))?;
        Ok(change.snapshot().present_key(&row_id))
    }

    /// Destroys the material of a key that was not created after all.
    pub fn discard(&self, call: &Call<'_>) {
        let destroyed = call.snapshot().map_err(|error| error.to_string()).and_then(|snapshot| {
            let destroy = |token: &Token| token.destroy(&self.material_id);
            call.shared.with_token(&snapshot, &self.row_id, destroy).map_err(|error| error.to_string())
        });
        if let Err(error) = destroyed {
            tracing::warn!(%error, "a key that belongs to nothing was left in a token");
        }
    }
}

impl Call<'_> {
    /// Random bytes from the token of the caller's store `id`.
    pub fn random_from_token(&self, id: &str, len: usize) -> Result<Plaintext, KmsError> {
        let snapshot = self.snapshot()?;
        let (row_id, _) = connected(self, &snapshot, id)?;
        let fill = |token: &Token| Plaintext::build(len, |out| token.random(out));
        self.shared.with_token(&snapshot, &row_id, fill).map_err(not_active)
    }
}

fn cluster_id(entropy: &dyn Entropy) -> String {
    let letter = |byte: u8| char::from(CLUSTER_ALPHABET[usize::from(byte & 31)]);
    format!("cluster-{}", random::<11>(entropy).map(letter).iter().collect::<String>())
}

fn entry_of(id: &str, module: &str, token_label: &str) -> ClusterEntry {
    ClusterEntry { cloud_hsm_cluster_id: id.to_owned(), module: module.to_owned(), token_label: token_label.to_owned() }
}

fn cluster_record(snapshot: &Snapshot, id: &str) -> Result<Arc<ClusterRecord>, KmsError> {
    snapshot.clusters.get(id).cloned().ok_or_else(|| {
        let text = format!("{id} is not known; the administrator of the key manager names the tokens.");
        fault(KeyStoreFault::ClusterNotFound, text)
    })
}

fn not_active(error: TokenError) -> KmsError {
    fault(KeyStoreFault::ClusterNotActive, error.to_string())
}

fn not_found(id: &str) -> KmsError {
    fault(KeyStoreFault::NotFound, format!("The custom key store {id} does not exist."))
}

fn wrong_state(store: &KeyStoreRecord) -> KmsError {
    let text = format!("The custom key store {} is {}, which is not valid for this operation.", store.id, store.state);
    fault(KeyStoreFault::InvalidState, text)
}

/// The caller's stores in the caller's Region.
fn stores<'s>(
    call: &Call<'_>,
    snapshot: &'s Snapshot,
) -> impl Iterator<Item = (&'s Arc<str>, &'s Arc<KeyStoreRecord>)> + use<'s> {
    below(
        &snapshot.key_stores,
        &key_store_row_id(call.caller.region().as_str(), call.caller.account().as_str(), ""),
        None,
    )
}

/// The caller's store `id` with its row id.
pub fn found(call: &Call<'_>, snapshot: &Snapshot, id: &str) -> Result<(String, Arc<KeyStoreRecord>), KmsError> {
    let row_id = key_store_row_id(call.caller.region().as_str(), call.caller.account().as_str(), id);
    let store = snapshot.key_stores.get(&*row_id).cloned();
    store.map(|store| (row_id, store)).ok_or_else(|| not_found(id))
}

/// As [`found`], of a store that is connected.
pub fn connected(call: &Call<'_>, snapshot: &Snapshot, id: &str) -> Result<(String, Arc<KeyStoreRecord>), KmsError> {
    let (row_id, store) = found(call, snapshot, id)?;
    if store.state == ConnectionState::Connected { Ok((row_id, store)) } else { Err(wrong_state(&store)) }
}

fn name_is_free(call: &Call<'_>, snapshot: &Snapshot, name: &str) -> Result<(), KmsError> {
    if stores(call, snapshot).any(|(_, store)| store.name == name) {
        let text = format!("A custom key store with the name {name} exists already.");
        return Err(fault(KeyStoreFault::NameInUse, text));
    }
    Ok(())
}

fn keys_of(snapshot: &Snapshot, store: &KeyStoreRecord) -> Vec<Arc<KeyEntry>> {
    let in_store = |key: &&Arc<KeyEntry>| {
        let record = &key.record;
        let place = (&record.region, &record.account) == (&store.region, &store.account);
        place && !key.is_tombstone() && record.key_store.as_ref().is_some_and(|link| link.id == store.id)
    };
    snapshot.keys_in_stores().filter(in_store).cloned().collect()
}

/// Writes `store` back with `edit` applied, and tells its keys whether they can be used.
fn set_state(
    change: &mut Change<'_>,
    row_id: &str,
    store: &KeyStoreRecord,
    edit: impl FnOnce(&mut KeyStoreRecord),
) -> Result<(), KmsError> {
    let edited = store.edited(edit);
    let unavailable = edited.state != ConnectionState::Connected;
    change.put(row_id, edited);
    for key in keys_of(change.snapshot(), store) {
        put(change, &key, |record| {
            if let Some(link) = &mut record.key_store {
                link.unavailable = unavailable;
            }
        })?;
    }
    Ok(())
}

/// The store could not be connected, or lost its login: nobody tries again until somebody looks after it, since tokens
/// lock their PIN after a few wrong ones.
pub fn fail(change: &mut Change<'_>, row_id: &str, store: &KeyStoreRecord, error: &TokenError) -> Result<(), KmsError> {
    let code = match error {
        TokenError::Unavailable { code, .. } => *code,
        TokenError::Refused => ConnectionErrorCode::InternalError,
    };
    set_state(change, row_id, store, |store| {
        (store.state, store.error, store.connected) = (ConnectionState::Failed, Some(code), None);
    })
}

fn entry(store: &KeyStoreRecord) -> CustomKeyStoresListEntry {
    CustomKeyStoresListEntry {
        custom_key_store_id: store.id.clone(),
        custom_key_store_name: store.name.clone(),
        cloud_hsm_cluster_id: store.cluster.clone(),
        trust_anchor_certificate: store.trust_anchor.clone(),
        connection_state: store.state,
        connection_error_code: store.error,
        creation_date: store.created,
        custom_key_store_type: CustomKeyStoreType::AwsCloudHsm,
    }
}
