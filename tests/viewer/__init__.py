"""What a radiologist sees of the results: OHIF in headless Chromium, over Orthanc's DICOMweb."""
