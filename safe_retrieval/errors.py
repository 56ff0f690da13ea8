"""Every error a user of this package can meet, drawn as one tree.

    SafeRetrievalError
    |-- InputError (ValueError)         an argument or text is not what was expected
    |-- DataError (ValueError)          a corpus, query, probe or qrels file is broken
    |-- ConfigError (ValueError)        a configuration file is broken
    |-- MissingExtraError (ImportError) an optional dependency is not installed
    |-- ModelError                      a model cannot be had, or is not what it claims
    |   |-- ModelNotFoundError          no source offers that name
    |   |-- OfflineError                it would have to be downloaded, and offline was asked for
    |   |-- DownloadError               the network failed; what came so far is kept for resuming
    |   |-- ChecksumError               the bytes are not the ones the catalog names
    |   `-- DiskFullError               no room; what was half written is gone
    |-- AdapterError                    a response adapter cannot be used
    |   |-- AdapterFormatError          its files are missing, truncated, altered or of an unknown version
    |   `-- BackboneMismatchError       it was trained for another backbone
    |-- IndexFolderError                an index folder cannot be used
    |   |-- IndexFormatError            files are missing, altered or of an unknown version
    |   |-- IndexLockedError            another process is writing it
    |   `-- EncoderMismatchError        the encoder does not speak the index's vector space
    |-- TrainingError                   a training run cannot start or go on
    `-- AuditError                      an audit cannot be carried out

A message says what was expected, what came, and how to mend it. Command-line programs print it as one line and exit
with 2; nothing here is raised for a finding (a broken audit threshold is an exit code, not an error).
"""

from __future__ import annotations


class SafeRetrievalError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(SafeRetrievalError, ValueError):
    """An argument or a text is not what was expected."""


class DataError(SafeRetrievalError, ValueError):
    """A corpus, query, probe or qrels file is broken; the message names file and line."""


class ConfigError(SafeRetrievalError, ValueError):
    """A configuration file is broken; the message names the field."""


class MissingExtraError(SafeRetrievalError, ImportError):
    """An optional dependency is not installed; the message holds the install line."""


class ModelError(SafeRetrievalError):
    """A model cannot be had, or is not what it claims to be."""


class ModelNotFoundError(ModelError):
    """No source offers a model of that name."""


class OfflineError(ModelError):
    """The model would have to be downloaded, and offline was asked for."""


class DownloadError(ModelError):
    """The network failed; what came so far is kept, and the next call resumes."""


class ChecksumError(ModelError):
    """The bytes are not the ones that the catalog names."""


class DiskFullError(ModelError):
    """There is no room on the disk; what was half written has been removed."""


class AdapterError(SafeRetrievalError):
    """A response adapter cannot be used."""


class AdapterFormatError(AdapterError):
    """The adapter's files are missing, truncated, altered or of an unknown version."""


class BackboneMismatchError(AdapterError):
    """The adapter was trained for another backbone than the one it was given."""


class IndexFolderError(SafeRetrievalError):
    """An index folder cannot be used."""


class IndexFormatError(IndexFolderError):
    """Files of the index are missing, truncated, altered or of an unknown version."""


class IndexLockedError(IndexFolderError):
    """Another process is writing the index."""


class EncoderMismatchError(IndexFolderError):
    """The encoder does not speak the vector space of the index."""


class TrainingError(SafeRetrievalError):
    """A training run cannot start or cannot go on."""


class AuditError(SafeRetrievalError):
    """An audit cannot be carried out."""
