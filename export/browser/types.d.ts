// The export copies ONNX Runtime Web to this path in the folder of the page.
declare module "*/onnxruntime/ort.js" {
  export * from "onnxruntime-web";
}
