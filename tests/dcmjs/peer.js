// A modality made of dcmjs-dimse: a client of procedure steps and of storage commitment, strict about roles.
//
//   node peer.js scu   reads {host, port, calling, called, roles, linger, requests} from standard input, sends the
//                      requests over one association, and keeps it open for `linger` ms after the last answer
//   node peer.js scp   reads {port, reports} and listens until so many reports came
//
// Both print one JSON object. A request is {service, sopClass, sopInstance, action, dataset}; datasets are dcmjs's
// naturalized ones. `roles` is [SCU, SCP] as proposed for every SOP class, or absent.

const dimse = require('dcmjs-dimse');
const { Client, Dataset, Scp, Server } = dimse;
const { NActionRequest, NCreateRequest, NSetRequest } = dimse.requests;
const { NEventReportResponse } = dimse.responses;
const { PresentationContextResult, Status } = dimse.constants;

dimse.log.setLevel('silent');

function made(request) {
  const { service, sopClass, sopInstance, action, dataset } = request;
  const kinds = {
    'N-CREATE': () => new NCreateRequest(sopClass, sopInstance),
    'N-SET': () => new NSetRequest(sopClass, sopInstance),
    'N-ACTION': () => new NActionRequest(sopClass, sopInstance, action),
  };
  const result = kinds[service]();
  if (dataset) {
    result.setDataset(new Dataset(dataset));
  }
  return result;
}

function heard(request) {
  return { event: request.getEventTypeId(), dataset: request.getDataset().getElements() };
}

function answer(request) {
  const response = NEventReportResponse.fromRequest(request);
  response.setStatus(Status.Success);
  return response;
}

// The client has no setting for roles: they are set where it makes its presentation contexts.
function propose([user, provider]) {
  const contexts = dimse.association.Association.prototype;
  const add = contexts.addPresentationContextFromRequest;
  contexts.addPresentationContextFromRequest = function (...args) {
    const id = add.apply(this, args);
    const context = this.getPresentationContext(id);
    context.setUserRole(user);
    context.setProviderRole(provider);
    return id;
  };
}

function scu(job) {
  const client = new Client();
  const result = { contexts: [], answers: [], reports: [], end: 'none' };
  const print = (end) => {
    result.end = end;
    console.log(JSON.stringify(result));
    process.exit(0);
  };
  job.requests.forEach((asked, index) => {
    const request = made(asked);
    request.on('response', (response) => {
      const elements = response.getCommandDataset().getElements();
      result.answers[index] = {
        status: response.getStatus(),
        comment: elements.ErrorComment,
        errorId: elements.ErrorID,
        sopInstance: elements.AffectedSOPInstanceUID,
      };
    });
    client.addRequest(request);
  });
  if (job.roles) {
    propose(job.roles);
  }
  client.on('associationAccepted', (association) => {
    for (const { context } of association.getPresentationContexts()) {
      result.contexts.push({
        sopClass: context.getAbstractSyntaxUid(),
        accepted: context.getResult() === PresentationContextResult.Accept,
        scu: context.getUserRole(),
        scp: context.getProviderRole(),
      });
    }
  });
  client.on('nEventReportRequest', (request, callback) => {
    result.reports.push(heard(request));
    callback(answer(request));
  });
  client.on('associationRejected', () => print('rejected'));
  client.on('networkError', (error) => print(`error: ${error.message}`));
  client.on('closed', () => print('closed'));
  client.send(job.host, job.port, job.calling, job.called, { associationLingerTimeout: job.linger || 0 });
}

function scp(job) {
  const result = { roles: [], reports: [] };
  class Strict extends Scp {
    constructor(socket, opts) {
      super(socket, opts);
      this.association = undefined;
    }

    associationRequested(association) {
      this.association = association;
      for (const { context } of association.getPresentationContexts()) {
        const roles = [Boolean(context.getUserRole()), Boolean(context.getProviderRole())];
        result.roles.push(roles);
        const isProvider = !roles[0] && roles[1];
        context.setResult(
          isProvider ? PresentationContextResult.Accept : PresentationContextResult.RejectUser,
          context.getTransferSyntaxUids()[0]
        );
      }
      this.sendAssociationAccept();
    }

    nEventReportRequest(request, callback) {
      result.reports.push(heard(request));
      callback(answer(request));
    }

    associationReleaseRequested() {
      this.sendAssociationReleaseResponse();
      if (result.reports.length >= job.reports) {
        console.log(JSON.stringify(result));
        setTimeout(() => process.exit(0), 100);
      }
    }
  }
  const server = new Server(Strict);
  server.on('networkError', () => {});
  server.listen(job.port);
  console.error('listening');
}

let input = '';
process.stdin.on('data', (chunk) => (input += chunk));
process.stdin.on('end', () => ({ scu, scp })[process.argv[2]](JSON.parse(input)));
