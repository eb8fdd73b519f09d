//! All symbols of the driver interface: those that do something, and those that say they do not.
//!
//! Programs resolve every symbol of the version they were built for when they load the library;
//! one that is missing stops them before they begin. The list is that of `cuda.h` up to CUDA 13.4
//! (as cudarc 0.19 has it), which the tests compare with.

use super::api;
use super::error::*;
use super::state::say;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The address of an entry point.
#[derive(Debug)]
pub struct Address(pub *const ());

// SAFETY: the address of a function is the same for every thread.
unsafe impl Sync for Address {}

macro_rules! unsupported {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the driver interface: not supported.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> CUresult {
                // Arguments stay with the caller, whose duty it is in C to take them back.
                refuse(stringify!($name))
            }
        )*

        static UNSUPPORTED: &[(&str, Address)] = &[
            $((stringify!($name), Address($name as *const ())),)*
        ];
    };
}

/// Says once of each function that it is not there.
fn refuse(name: &'static str) -> CUresult {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name)
    {
        say!("{name} is not supported");
    }
    ERROR_NOT_SUPPORTED
}

unsupported! {
    cuArray3DCreate_v2 cuArray3DGetDescriptor_v2 cuArrayCreate_v2 cuArrayDestroy
    cuArrayGetDescriptor_v2 cuArrayGetMemoryRequirements cuArrayGetPlane
    cuArrayGetSparseProperties cuCoredumpDeregisterCompleteCallback
    cuCoredumpDeregisterStartCallback cuCoredumpGetAttribute cuCoredumpGetAttributeGlobal
    cuCoredumpRegisterCompleteCallback cuCoredumpRegisterStartCallback cuCoredumpSetAttribute
    cuCoredumpSetAttributeGlobal cuCtxAttach cuCtxDetach cuCtxDisablePeerAccess
    cuCtxEnablePeerAccess cuCtxFromGreenCtx cuCtxGetDevResource cuCtxGetExecAffinity
    cuCtxRecordEvent cuCtxWaitEvent cuDestroyExternalMemory cuDestroyExternalSemaphore
    cuDevResourceGenerateDesc cuDevSmResourceSplit cuDevSmResourceSplitByCount
    cuDeviceGetCliqueCount cuDeviceGetCliqueInfo cuDeviceGetDevResource
    cuDeviceGetFabricClusterUuid cuDeviceGetGraphMemAttribute cuDeviceGetHostAtomicCapabilities
    cuDeviceGetLuid cuDeviceGetP2PAtomicCapabilities cuDeviceGetP2PAttribute
    cuDeviceGetTexture1DLinearMaxWidth cuDeviceGraphMemTrim cuDeviceRegisterAsyncNotification
    cuDeviceSetGraphMemAttribute cuDeviceUnregisterAsyncNotification
    cuExternalMemoryGetMappedBuffer cuExternalMemoryGetMappedMipmappedArray
    cuFlushGPUDirectRDMAWrites cuFuncSetBlockShape cuFuncSetSharedSize cuGetExportTable cuGraphAddBatchMemOpNode
    cuGraphAddExternalSemaphoresSignalNode cuGraphAddExternalSemaphoresWaitNode
    cuGraphAddMemAllocNode cuGraphAddMemFreeNode cuGraphAddNode cuGraphAddNode_v2
    cuGraphAddNode_v3 cuGraphBatchMemOpNodeGetParams cuGraphBatchMemOpNodeSetParams
    cuGraphConditionalHandleCreate cuGraphExecBatchMemOpNodeSetParams
    cuGraphExecChildGraphNodeSetParams cuGraphExecExternalSemaphoresSignalNodeSetParams
    cuGraphExecExternalSemaphoresWaitNodeSetParams cuGraphExecGetId cuGraphExecNodeSetParams
    cuGraphExternalSemaphoresSignalNodeGetParams cuGraphExternalSemaphoresSignalNodeSetParams
    cuGraphExternalSemaphoresWaitNodeGetParams cuGraphExternalSemaphoresWaitNodeSetParams
    cuGraphGetId cuGraphKernelNodeCopyAttributes cuGraphKernelNodeGetAttribute
    cuGraphKernelNodeSetAttribute cuGraphMemAllocNodeGetParams cuGraphMemFreeNodeGetParams
    cuGraphNodeGetContainingGraph cuGraphNodeGetLocalId cuGraphNodeGetParams cuGraphNodeGetToolsId
    cuGraphNodeSetParams cuGraphNodeSetParams_v2 cuGraphReleaseUserObject cuGraphRetainUserObject
    cuGraphicsMapResources cuGraphicsResourceGetMappedMipmappedArray
    cuGraphicsResourceGetMappedPointer_v2 cuGraphicsResourceSetMapFlags_v2
    cuGraphicsSubResourceGetMappedArray cuGraphicsUnmapResources cuGraphicsUnregisterResource
    cuGreenCtxCreate cuGreenCtxDestroy cuGreenCtxGetDevResource cuGreenCtxGetId
    cuGreenCtxRecordEvent cuGreenCtxStreamCreate cuGreenCtxWaitEvent cuImportExternalMemory
    cuImportExternalSemaphore cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcGetMemHandle
    cuIpcOpenEventHandle cuIpcOpenMemHandle_v2 cuLaunch cuLaunchCooperativeKernelMultiDevice
    cuLaunchGrid cuLaunchGridAsync cuLibraryGetManaged cuLibraryGetUnifiedFunction
    cuLinkAddData_v2 cuLinkAddFile_v2 cuLinkComplete cuLinkCreate_v2 cuLinkDestroy
    cuLogicalEndpointAddDevice cuLogicalEndpointBindAddr cuLogicalEndpointBindMem
    cuLogicalEndpointCreate cuLogicalEndpointDestroy cuLogicalEndpointExport
    cuLogicalEndpointGetLimits cuLogicalEndpointIdRelease cuLogicalEndpointIdReserve
    cuLogicalEndpointImport cuLogicalEndpointQuery cuLogicalEndpointUnbind cuLogsCurrent
    cuLogsDumpToFile cuLogsDumpToMemory cuLogsRegisterCallback cuLogsUnregisterCallback
    cuMemAddressFree cuMemAddressReserve cuMemBatchDecompressAsync cuMemCreate
    cuMemDiscardAndPrefetchBatchAsync cuMemDiscardBatchAsync cuMemExportToShareableHandle
    cuMemGetAccess cuMemGetAllocationGranularity cuMemGetAllocationPropertiesFromHandle
    cuMemGetHandleForAddressRange cuMemGetLocationInfo cuMemImportFromShareableHandle cuMemMap
    cuMemMapArrayAsync cuMemPoolExportPointer cuMemPoolExportToShareableHandle
    cuMemPoolImportFromShareableHandle cuMemPoolImportPointer cuMemPrefetchBatchAsync
    cuMemRangeGetAttribute cuMemRangeGetAttributes cuMemRelease cuMemRetainAllocationHandle
    cuMemSetAccess cuMemSetMemPool cuMemUnmap cuMemcpy3DBatchAsync cuMemcpy3DBatchAsync_v2
    cuMemcpy3DPeer cuMemcpy3DPeerAsync cuMemcpy3DWithAttributesAsync cuMemcpyAtoA_v2
    cuMemcpyAtoD_v2 cuMemcpyAtoHAsync_v2 cuMemcpyAtoH_v2 cuMemcpyBatchAsync cuMemcpyBatchAsync_v2
    cuMemcpyDtoA_v2 cuMemcpyHtoAAsync_v2 cuMemcpyHtoA_v2 cuMemcpyWithAttributesAsync
    cuMipmappedArrayCreate cuMipmappedArrayDestroy cuMipmappedArrayGetLevel
    cuMipmappedArrayGetMemoryRequirements cuMipmappedArrayGetSparseProperties cuModuleGetSurfRef
    cuModuleGetTexRef cuMulticastAddDevice cuMulticastBindAddr cuMulticastBindAddr_v2
    cuMulticastBindMem cuMulticastBindMem_v2 cuMulticastCreate cuMulticastGetGranularity
    cuMulticastUnbind cuParamSetSize cuParamSetTexRef cuParamSetf cuParamSeti cuParamSetv
    cuProfilerInitialize cuSignalExternalSemaphoresAsync cuStreamBatchMemOp cuStreamBatchMemOp_v2
    cuStreamBeginCaptureToCig cuStreamBeginRecaptureToGraph cuStreamCopyAttributes
    cuStreamEndCaptureToCig cuStreamGetAttribute cuStreamGetDevResource cuStreamGetGreenCtx
    cuStreamSetAttribute cuStreamWaitValue32 cuStreamWaitValue32_v2 cuStreamWaitValue64
    cuStreamWaitValue64_v2 cuStreamWriteValue32 cuStreamWriteValue32_v2 cuStreamWriteValue64
    cuStreamWriteValue64_v2 cuSurfObjectCreate cuSurfObjectDestroy cuSurfObjectGetResourceDesc
    cuSurfRefGetArray cuSurfRefSetArray cuTensorMapEncodeIm2col cuTensorMapEncodeIm2colWide
    cuTensorMapEncodeTiled cuTensorMapReplaceAddress cuTexObjectCreate cuTexObjectDestroy
    cuTexObjectGetResourceDesc cuTexObjectGetResourceViewDesc cuTexObjectGetTextureDesc
    cuTexRefCreate cuTexRefDestroy cuTexRefGetAddressMode cuTexRefGetAddress_v2 cuTexRefGetArray
    cuTexRefGetBorderColor cuTexRefGetFilterMode cuTexRefGetFlags cuTexRefGetFormat
    cuTexRefGetMaxAnisotropy cuTexRefGetMipmapFilterMode cuTexRefGetMipmapLevelBias
    cuTexRefGetMipmapLevelClamp cuTexRefGetMipmappedArray cuTexRefSetAddress2D_v3
    cuTexRefSetAddressMode cuTexRefSetAddress_v2 cuTexRefSetArray cuTexRefSetBorderColor
    cuTexRefSetFilterMode cuTexRefSetFlags cuTexRefSetFormat cuTexRefSetMaxAnisotropy
    cuTexRefSetMipmapFilterMode cuTexRefSetMipmapLevelBias cuTexRefSetMipmapLevelClamp
    cuTexRefSetMipmappedArray cuUserObjectCreate cuUserObjectRelease cuUserObjectRetain
    cuWaitExternalSemaphoresAsync
}

/// Every symbol, and whether it is supported.
pub fn all() -> impl Iterator<Item = (&'static str, *const (), bool)> {
    let supported = [
        api::context::TABLE,
        api::device::TABLE,
        api::event::TABLE,
        api::graph::TABLE,
        api::graph_exec::TABLE,
        api::launch::TABLE,
        api::memory::TABLE,
        api::module::TABLE,
        api::pool::TABLE,
        api::stream::TABLE,
        api::transfer::TABLE,
    ];
    let of = |table: &'static [(&'static str, Address)], supported| {
        table
            .iter()
            .map(move |(name, address)| (*name, address.0, supported))
    };
    supported
        .into_iter()
        .flat_map(move |table| of(table, true))
        .chain(of(UNSUPPORTED, false))
}

/// What `cuGetProcAddress` finds under a name without a version: the newest one up to what the
/// program asks for. Versions begin with the releases of CUDA that brought them.
pub fn resolve(name: &str, version: i32) -> Option<*const ()> {
    // Base name, suffix, first CUDA version in which the plain name means it.
    const SINCE: &[(&str, &str, i32)] = &[
        ("cuCtxCreate", "_v4", 13000),
        ("cuCtxGetDevice", "_v2", 13000),
        ("cuCtxSynchronize", "_v2", 13000),
        ("cuDeviceGetUuid", "_v2", 11040),
        ("cuEventElapsedTime", "_v2", 12080),
        ("cuGetProcAddress", "_v2", 12000),
        ("cuGraphAddDependencies", "_v2", 13000),
        ("cuGraphAddKernelNode", "_v2", 12000),
        ("cuGraphAddNode", "_v2", 13000),
        ("cuGraphExecKernelNodeSetParams", "_v2", 12000),
        ("cuGraphExecUpdate", "_v2", 12000),
        ("cuGraphGetEdges", "_v2", 13000),
        ("cuGraphKernelNodeGetParams", "_v2", 12000),
        ("cuGraphKernelNodeSetParams", "_v2", 12000),
        ("cuGraphNodeGetDependencies", "_v2", 13000),
        ("cuGraphNodeGetDependentNodes", "_v2", 13000),
        ("cuGraphRemoveDependencies", "_v2", 13000),
        ("cuMemAdvise", "_v2", 13000),
        ("cuMemPrefetchAsync", "_v2", 13000),
        ("cuMemcpy3DBatchAsync", "_v2", 13000),
        ("cuMemcpyBatchAsync", "_v2", 13000),
        ("cuStreamBatchMemOp", "_v2", 11070),
        ("cuStreamGetCaptureInfo", "_v3", 13000),
        ("cuStreamGetCaptureInfo", "_v2", 12000),
        ("cuStreamGetCtx", "_v2", 13000),
        ("cuStreamUpdateCaptureDependencies", "_v2", 13000),
        ("cuStreamWaitValue32", "_v2", 11070),
        ("cuStreamWaitValue64", "_v2", 11070),
        ("cuStreamWriteValue32", "_v2", 11070),
        ("cuStreamWriteValue64", "_v2", 11070),
    ];
    let exact = |wanted: &str| all().find(|(name, ..)| *name == wanted);
    let suffix = SINCE
        .iter()
        .find(|(base, _, since)| *base == name && version >= *since);
    let found = match suffix {
        Some((_, suffix, _)) => exact(&format!("{name}{suffix}")),
        // Names with one version only, and names that only exist with a suffix (cuMemAlloc_v2).
        None => exact(name)
            .or_else(|| exact(&format!("{name}_v2")))
            .or_else(|| exact(&format!("{name}_v3"))),
    };
    found.map(|(_, address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_means_the_newest_version_that_the_program_knows() {
        let address = |wanted: &str| all().find(|(name, ..)| *name == wanted).unwrap().1;
        for (name, version, found) in [
            ("cuInit", 12000, "cuInit"),
            ("cuMemAlloc", 12000, "cuMemAlloc_v2"),
            ("cuStreamBeginCapture", 12000, "cuStreamBeginCapture_v2"),
            ("cuCtxCreate", 12000, "cuCtxCreate_v2"),
            ("cuCtxCreate", 13000, "cuCtxCreate_v4"),
            ("cuStreamGetCaptureInfo", 12040, "cuStreamGetCaptureInfo_v2"),
            ("cuStreamGetCaptureInfo", 13000, "cuStreamGetCaptureInfo_v3"),
            ("cuEventElapsedTime", 12000, "cuEventElapsedTime"),
        ] {
            assert_eq!(
                resolve(name, version),
                Some(address(found)),
                "{name} {version}"
            );
        }
        assert_eq!(resolve("cuNothing", 12000), None);
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<_> = all().map(|(name, ..)| name).collect();
        let before = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
