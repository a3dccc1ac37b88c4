//! References to every built-in resource, so that no daemon spells a group or a plural by hand.

use crate::resource::ResourceRef;

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $plural:literal $kind:literal $scope:ident;)*) => {
        $(
            #[doc = concat!("`", $plural, "` of `", $group, "/", $version, "`.")]
            pub const $name: ResourceRef = ResourceRef::built_in($group, $version, $plural, $kind, resources!(@ $scope));
        )*
        /// All of them.
        pub const ALL: &[ResourceRef] = &[$($name),*];
    };
    (@ namespaced) => { true };
    (@ cluster) => { false };
}

resources! {
    BINDINGS = "" "v1" "bindings" "Binding" namespaced;
    COMPONENT_STATUSES = "" "v1" "componentstatuses" "ComponentStatus" cluster;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" namespaced;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" namespaced;
    CORE_EVENTS = "" "v1" "events" "Event" namespaced;
    LIMIT_RANGES = "" "v1" "limitranges" "LimitRange" namespaced;
    NAMESPACES = "" "v1" "namespaces" "Namespace" cluster;
    NODES = "" "v1" "nodes" "Node" cluster;
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" namespaced;
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume" cluster;
    PODS = "" "v1" "pods" "Pod" namespaced;
    POD_TEMPLATES = "" "v1" "podtemplates" "PodTemplate" namespaced;
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers" "ReplicationController" namespaced;
    RESOURCE_QUOTAS = "" "v1" "resourcequotas" "ResourceQuota" namespaced;
    SECRETS = "" "v1" "secrets" "Secret" namespaced;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" namespaced;
    SERVICES = "" "v1" "services" "Service" namespaced;
    API_SERVICES = "apiregistration.k8s.io" "v1" "apiservices" "APIService" cluster;
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions" "ControllerRevision" namespaced;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" namespaced;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" namespaced;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" namespaced;
    STATEFUL_SETS = "apps" "v1" "statefulsets" "StatefulSet" namespaced;
    EVENTS = "events.k8s.io" "v1" "events" "Event" namespaced;
    SELF_SUBJECT_REVIEWS = "authentication.k8s.io" "v1" "selfsubjectreviews" "SelfSubjectReview" cluster;
    TOKEN_REVIEWS = "authentication.k8s.io" "v1" "tokenreviews" "TokenReview" cluster;
    LOCAL_SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "localsubjectaccessreviews" "LocalSubjectAccessReview" namespaced;
    SELF_SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "selfsubjectaccessreviews" "SelfSubjectAccessReview" cluster;
    SELF_SUBJECT_RULES_REVIEWS = "authorization.k8s.io" "v1" "selfsubjectrulesreviews" "SelfSubjectRulesReview" cluster;
    SUBJECT_ACCESS_REVIEWS = "authorization.k8s.io" "v1" "subjectaccessreviews" "SubjectAccessReview" cluster;
    HORIZONTAL_POD_AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers" "HorizontalPodAutoscaler" namespaced;
    CRON_JOBS = "batch" "v1" "cronjobs" "CronJob" namespaced;
    JOBS = "batch" "v1" "jobs" "Job" namespaced;
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" cluster;
    INGRESS_CLASSES = "networking.k8s.io" "v1" "ingressclasses" "IngressClass" cluster;
    INGRESSES = "networking.k8s.io" "v1" "ingresses" "Ingress" namespaced;
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses" "IPAddress" cluster;
    NETWORK_POLICIES = "networking.k8s.io" "v1" "networkpolicies" "NetworkPolicy" namespaced;
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs" "ServiceCIDR" cluster;
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" namespaced;
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding" cluster;
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" cluster;
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding" namespaced;
    ROLES = "rbac.authorization.k8s.io" "v1" "roles" "Role" namespaced;
    CSI_DRIVERS = "storage.k8s.io" "v1" "csidrivers" "CSIDriver" cluster;
    CSI_NODES = "storage.k8s.io" "v1" "csinodes" "CSINode" cluster;
    CSI_STORAGE_CAPACITIES = "storage.k8s.io" "v1" "csistoragecapacities" "CSIStorageCapacity" namespaced;
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses" "StorageClass" cluster;
    VOLUME_ATTACHMENTS = "storage.k8s.io" "v1" "volumeattachments" "VolumeAttachment" cluster;
    VOLUME_ATTRIBUTES_CLASSES = "storage.k8s.io" "v1" "volumeattributesclasses" "VolumeAttributesClass" cluster;
    MUTATING_ADMISSION_POLICIES = "admissionregistration.k8s.io" "v1" "mutatingadmissionpolicies" "MutatingAdmissionPolicy" cluster;
    MUTATING_ADMISSION_POLICY_BINDINGS = "admissionregistration.k8s.io" "v1" "mutatingadmissionpolicybindings" "MutatingAdmissionPolicyBinding" cluster;
    MUTATING_WEBHOOK_CONFIGURATIONS = "admissionregistration.k8s.io" "v1" "mutatingwebhookconfigurations" "MutatingWebhookConfiguration" cluster;
    VALIDATING_ADMISSION_POLICIES = "admissionregistration.k8s.io" "v1" "validatingadmissionpolicies" "ValidatingAdmissionPolicy" cluster;
    VALIDATING_ADMISSION_POLICY_BINDINGS = "admissionregistration.k8s.io" "v1" "validatingadmissionpolicybindings" "ValidatingAdmissionPolicyBinding" cluster;
    VALIDATING_WEBHOOK_CONFIGURATIONS = "admissionregistration.k8s.io" "v1" "validatingwebhookconfigurations" "ValidatingWebhookConfiguration" cluster;
    CUSTOM_RESOURCE_DEFINITIONS = "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition" cluster;
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass" cluster;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" namespaced;
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses" "RuntimeClass" cluster;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" namespaced;
    DEVICE_CLASSES = "resource.k8s.io" "v1" "deviceclasses" "DeviceClass" cluster;
    RESOURCE_CLAIMS = "resource.k8s.io" "v1" "resourceclaims" "ResourceClaim" namespaced;
    RESOURCE_CLAIM_TEMPLATES = "resource.k8s.io" "v1" "resourceclaimtemplates" "ResourceClaimTemplate" namespaced;
    RESOURCE_SLICES = "resource.k8s.io" "v1" "resourceslices" "ResourceSlice" cluster;
    FLOW_SCHEMAS = "flowcontrol.apiserver.k8s.io" "v1" "flowschemas" "FlowSchema" cluster;
    PRIORITY_LEVEL_CONFIGURATIONS = "flowcontrol.apiserver.k8s.io" "v1" "prioritylevelconfigurations" "PriorityLevelConfiguration" cluster;
}
