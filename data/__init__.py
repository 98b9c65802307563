"""Datalists, their checks, the collections that the project prepares, and mixed batches."""

from mixseg.data.checks import DatalistError, Fault, check_cases
from mixseg.data.datalist import Datalist, Entry, data_hash
from mixseg.data.find import find_datalist, list_images
from mixseg.data.folder.inspection import FolderOptions, FolderReport, inspect_folder
from mixseg.data.folder.writing import prepare_folder, write_folder
from mixseg.data.samplers import CaseShare, MixedBatchSampler, MixedDataLoader
from mixseg.data.slices import SliceDataset
from mixseg.data.subset import select_cases, split_cases
from mixseg.data.volumes import VolumeDataset
from mixseg.files.writing import NativeItkWriter, NativeNiftiWriter

__all__ = [
    "CaseShare",
    "Datalist",
    "DatalistError",
    "Entry",
    "Fault",
    "FolderOptions",
    "FolderReport",
    "MixedBatchSampler",
    "MixedDataLoader",
    "NativeItkWriter",
    "NativeNiftiWriter",
    "SliceDataset",
    "VolumeDataset",
    "check_cases",
    "data_hash",
    "find_datalist",
    "inspect_folder",
    "list_images",
    "prepare_folder",
    "select_cases",
    "split_cases",
    "write_folder",
]
