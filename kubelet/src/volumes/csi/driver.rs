//! One driver's node service over its socket. Every call has upstream's deadline of two minutes.

use std::time::Duration;

use tonic::Request;
use tonic::transport::Channel;

use super::api::node_client::NodeClient;
use super::api::node_service_capability::{Type, rpc};
use super::{Drivers, api};
use crate::cri::client::channel;

const TIMEOUT: Duration = Duration::from_secs(120);

/// A driver and what its node service can do.
pub struct Driver {
    client: NodeClient<Channel>,
    pub stages: bool,
    pub expands: bool,
    pub mount_group: bool,
    pub multi_writer: bool,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// One method per call.
macro_rules! calls {
    ($($name:ident($req:ident);)*) => {
        impl Driver {
            $(pub async fn $name(&self, message: api::$req) -> Result<(), String> {
                self.client.clone().$name(request(message)).await.map(|_| ()).map_err(|e| words(&e))
            })*
        }
    };
}

calls! {
    node_stage_volume(NodeStageVolumeRequest);
    node_unstage_volume(NodeUnstageVolumeRequest);
    node_publish_volume(NodePublishVolumeRequest);
    node_unpublish_volume(NodeUnpublishVolumeRequest);
    node_expand_volume(NodeExpandVolumeRequest);
}

fn words(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// Asks a driver who this node is to it.
///
/// # Errors
/// The driver's refusal.
pub async fn node_info(endpoint: &str) -> Result<api::NodeGetInfoResponse, String> {
    let mut client = NodeClient::new(channel(endpoint));
    let answer = client.node_get_info(request(api::NodeGetInfoRequest {})).await;
    answer.map(tonic::Response::into_inner).map_err(|e| words(&e))
}

impl Driver {
    /// Connects to a registered driver and asks what it can do.
    ///
    /// # Errors
    /// A driver that is not registered or does not answer.
    pub async fn connect(drivers: &Drivers, name: &str) -> Result<Self, String> {
        let client = NodeClient::new(channel(&drivers.endpoint(name)?));
        let answer = client.clone().node_get_capabilities(request(api::NodeGetCapabilitiesRequest {})).await;
        let capabilities = answer.map_err(|e| words(&e))?.into_inner().capabilities;
        let can = |wanted: rpc::Type| {
            capabilities.iter().any(|c| matches!(&c.r#type, Some(Type::Rpc(rpc)) if rpc.r#type == wanted as i32))
        };
        Ok(Self {
            stages: can(rpc::Type::StageUnstageVolume),
            expands: can(rpc::Type::ExpandVolume),
            mount_group: can(rpc::Type::VolumeMountGroup),
            multi_writer: can(rpc::Type::SingleNodeMultiWriter),
            client,
        })
    }
}
